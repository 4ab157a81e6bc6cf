"""Video processors that hold all videos of a call in one tensor, and so take them of one length alone."""

from __future__ import annotations

from typing import Any

import transformers
from torch import Tensor


class _OneLength:
    """Mixed into transformers' own classes, whose names stay, so that a saved processor is the same as without it."""

    def _preprocess(self, videos: list[Tensor], *arguments: Any, **options: Any) -> Any:
        lengths = [len(video) for video in videos]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{type(self).__name__} holds all videos of a call in one tensor, but these have "
                f"{', '.join(map(str, lengths))} frames; pass equally many of each (of arrays of frames "
                f"do_sample_frames=True, num_frames={min(lengths)} takes them evenly), or one prompt at a time"
            )
        return super()._preprocess(videos, *arguments, **options)  # type: ignore[misc]


class LlavaOnevisionVideoProcessor(_OneLength, transformers.LlavaOnevisionVideoProcessor):
    pass


class VideoLlavaVideoProcessor(_OneLength, transformers.VideoLlavaVideoProcessor):
    pass


def refusing_lengths(processor: Any) -> Any:
    """The processor, which now refuses a batch of videos of several lengths by name, where it could not stack them.

    Without, the error is torch's ``stack expects each tensor to be equal size``; and left as lists, each of
    LLaVA-OneVision's videos gets as many placeholders as the first.
    """
    video = getattr(processor, "video_processor", None)
    for kind in (LlavaOnevisionVideoProcessor, VideoLlavaVideoProcessor):
        if type(video) is kind.__bases__[1]:
            video.__class__ = kind
    return processor
