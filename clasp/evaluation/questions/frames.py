"""Frames of a video, taken uniformly. The code here is part of every cell's signature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICROSECONDS = 1e6
"""FFmpeg's unit of a file's length."""

CLOCK = 2.0
"""Frames a second of an array of frames, which has no clock of its own (Qwen's sampling rate; others do not look)."""


class VideoError(ValueError):
    """A video that cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Clip:
    """Sampled frames.

    Args:
        frames: (count, height, width, 3), uint8.
        indices: (count,) their places in the video, rising.
        total: frames of the whole video.
        fps: its frames a second.
    """

    frames: NDArray[np.uint8]
    indices: NDArray[np.int64]
    total: int
    fps: float

    @property
    def metadata(self) -> dict[str, Any]:
        """What transformers' processors want to know of frames that are sampled already."""
        return {"fps": self.fps, "total_num_frames": self.total, "frames_indices": self.indices.tolist()}


def uniform(total: int, count: int) -> NDArray[np.int64]:
    """(count,) places from the first frame to the last, as Video-LLaVA samples; a short video's frames repeat."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def sample(video: Any, count: int) -> Clip:
    """``count`` frames of a video file, or of an array (frames, height, width, 3) of uint8.

    Raises:
        VideoError: the file is missing, damaged or has no video in it; the array has another shape.
    """
    if isinstance(video, str | Path):
        return _decoded(Path(video), count)
    array = np.asarray(video)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not len(array):
        raise VideoError(
            f"an array of {array.dtype} {array.shape} is no video; give (frames, height, width, 3) of uint8"
        )
    indices = uniform(len(array), count)
    return Clip(array[indices], indices, len(array), CLOCK)


def _decoded(path: Path, count: int) -> Clip:
    """Reads the packets' times first, then jumps to each frame: long videos are not decoded whole."""
    import av

    if not path.is_file():
        raise VideoError(f"{path} is missing")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} has no video in it")
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            times = sorted(packet.pts for packet in packets if packet.pts is not None)
            if not packets or any(packet.is_corrupt for packet in packets) or _too_short(container, stream, times):
                raise VideoError(f"{path} is damaged or cut short")
            if len(times) < len(packets):  # AVI has no times where frames are stored out of order
                total = sum(1 for _ in _rewound(container, stream))
                indices = uniform(total, count)
                kept = {i: _pixels(f) for i, f in enumerate(_rewound(container, stream)) if i in set(indices.tolist())}
                frames = [kept[i] for i in indices.tolist()]
            else:
                total = len(times)
                indices = uniform(total, count)
                frames = [_frame_at(container, stream, times[i]) for i in indices]
            clip = Clip(np.stack(frames), indices, total, float(stream.average_rate or CLOCK))
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be read ({error.strerror})") from error
    return clip


def _too_short(container: Any, stream: Any, times: Sequence[int]) -> bool:
    """Whether the last frame comes before half of the length that the file states (sound may outlast images)."""
    if len(times) < 2 or not container.duration:
        return False
    return float(times[-1] * stream.time_base) < 0.5 * container.duration / MICROSECONDS


def _rewound(container: Any, stream: Any) -> Iterator[Any]:
    container.seek(0, stream=stream, backward=True)
    return container.decode(stream)


def _frame_at(container: Any, stream: Any, time: int) -> NDArray[np.uint8]:
    """The frame shown at ``time``; from the start where a jump lands behind it, as AVI's may."""
    container.seek(time, stream=stream, backward=True)
    first = next((frame for frame in container.decode(stream) if frame.pts is not None), None)
    behind = first is None or first.pts > time
    container.seek(0 if behind else time, stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is not None and frame.pts >= time:
            return _pixels(frame)
    raise VideoError(
        f"{container.name} has no frame at {float(time * stream.time_base):.1f} s: it is damaged or cut short"
    )


def _pixels(frame: Any) -> NDArray[np.uint8]:
    return frame.to_ndarray(format="rgb24")
