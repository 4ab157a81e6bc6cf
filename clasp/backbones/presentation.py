"""Departures from a backbone's processor in how images and questions are presented, as published numbers have them.

LLaVA-1.5's own code pads an image to a square and asks behind a system prompt, the checkpoint in transformers' format
crops the centre and has no system prompt; lmms-eval's classes for Qwen bound the pixels of an image. Each is an option
and not a default: results name those that were chosen; without any, inputs are what the processor makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from clasp.strict import ConfigError

PADDED = ("clasp.backbones.llava", "clasp.backbones.video_llava")
"""Adapters of the families whose own code pads images to a square; the others keep an image's shape."""
BOUNDED = ("clasp.backbones.qwen2_vl", "clasp.backbones.qwen2_5_vl", "clasp.backbones.qwen3_vl")
"""Adapters of the families that scale an image to a number of pixels between two bounds; they see a video's frames in
pairs."""
WITH_VIDEOS = ("clasp.backbones.video_llava", "clasp.backbones.llava_onevision", *BOUNDED)
"""Adapters of the families that take videos."""


@dataclass(frozen=True)
class Presentation:
    """What departs from the processor.

    Args:
        preprocessing: ``processor``, or ``pad``: to a square, with the mean colour that the processor subtracts, the
            image in the middle (LLaVA, ``image_aspect_ratio: pad``).
        system_prompt: of every conversation; None: the chat template's own, if any.
        min_pixels, max_pixels: of an image, after which it is scaled to a multiple of the family's unit (28 or 32
            pixels a side); None: the processor's own. Frames of videos have the processor's own bounds.
        frames: sampled from a video; None: as many as the family's papers are evaluated with (``Adapter.frames``).
    """

    preprocessing: Literal["processor", "pad"] = "processor"
    system_prompt: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    frames: int | None = None

    def identity(self) -> dict[str, Any]:
        """The departures, as JSON values; empty where there are none."""
        usual = asdict(Presentation())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    @property
    def protocol(self) -> str:
        """The departures in words, for a table's legend; empty where there are none."""
        wordings = {
            "preprocessing": "images padded to a square",
            "system_prompt": f"system prompt {self.system_prompt!r}",
            "min_pixels": f"at least {self.min_pixels} pixels an image",
            "max_pixels": f"at most {self.max_pixels} pixels an image",
            "frames": f"{self.frames} frames a video",
        }
        return ", ".join(wordings[name] for name in self.identity())

    def check(self, backbone: str, adapter: str) -> None:
        """Checks that a backbone can take images like that.

        Args:
            backbone: its name, for the message.
            adapter: dotted name of the module that adapts it.

        Raises:
            ConfigError: it cannot, or a value contradicts itself.
        """
        if self.preprocessing == "pad" and adapter not in PADDED:
            raise ConfigError(
                f"backbone.preprocessing=pad is the way of LLaVA-1.5 and Video-LLaVA; backbone={backbone} keeps an "
                "image's shape by itself; use backbone.preprocessing=processor"
            )
        bounds = {name: value for name in ("min_pixels", "max_pixels") if (value := getattr(self, name)) is not None}
        for name, value in bounds.items():
            if adapter not in BOUNDED:
                raise ConfigError(
                    f"backbone.{name}={value} is for Qwen's processors; backbone={backbone} has images of one size; "
                    "leave it out"
                )
            if value < 1:
                raise ConfigError(f"backbone.{name}={value} is no number of pixels; use a positive whole number")
        if len(bounds) == 2 and bounds["min_pixels"] > bounds["max_pixels"]:
            raise ConfigError(
                f"backbone.min_pixels={self.min_pixels} is above backbone.max_pixels={self.max_pixels}; swap them"
            )
        if self.frames is not None:
            self._check_frames(backbone, adapter)
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ConfigError("backbone.system_prompt is empty; give its words, or null for the template's own")

    def _check_frames(self, backbone: str, adapter: str) -> None:
        if adapter not in WITH_VIDEOS:
            raise ConfigError(
                f"backbone.frames={self.frames} is for backbones that take videos; backbone={backbone} takes none; "
                "leave it out"
            )
        least = 2 if adapter in BOUNDED else 1
        if self.frames is not None and self.frames < least:
            raise ConfigError(f"backbone.frames={self.frames} is too few for backbone={backbone}; use {least} or more")

    def prepare(self, processor: Any) -> None:
        """Sets the bounds on pixels in a processor, which should be the caller's own."""
        own = processor.image_processor
        given = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        if any(given.values()):
            own.size = {edge: value or own.size[edge] for edge, value in given.items()}

    def image(self, image: Any, processor: Any) -> Any:
        """A PIL image in RGB as the processor is to get it."""
        if self.preprocessing == "processor":
            return image
        return padded(image, processor.image_processor.image_mean)

    def messages(self, turn: dict[str, Any]) -> list[dict[str, Any]]:
        """The conversation of one user turn."""
        if self.system_prompt is None:
            return [turn]
        return [{"role": "system", "content": [{"type": "text", "text": self.system_prompt}]}, turn]


class Downscaling:
    """Scales PIL images in RGB down before a processor of Qwen's, which it then has leave them at that.

    Args:
        processor: the caller's own; its lower bound on pixels is taken away.
        size: pixels of an image's height and width, and rows and columns of tokens that it has as it is -> rows and
            columns of the smaller one.
    """

    def __init__(self, processor: Any, size: Callable[[int, int, int, int], tuple[int, int]]) -> None:
        own = processor.image_processor
        self._size, self._unit = size, own.merge_size * own.patch_size
        self._least, self._most = own.size["shortest_edge"], own.size["longest_edge"]
        own.size = {"shortest_edge": self._unit**2, "longest_edge": self._most}

    def __call__(self, image: Any) -> Any:
        """The image, smaller; as it is where the processor then makes as many tokens of it as it would have."""
        from PIL import Image

        rows, columns = self._size(image.height, image.width, *self._grid(image, self._least))
        if (rows, columns) == self._grid(image, self._unit**2):
            return image
        return image.resize((columns * self._unit, rows * self._unit), Image.Resampling.BICUBIC)

    def _grid(self, image: Any, least: int) -> tuple[int, int]:
        """Rows and columns of tokens that the processor makes of an image of at least so many pixels."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        bounds = {"min_pixels": least, "max_pixels": self._most}
        height, width = smart_resize(image.height, image.width, self._unit, **bounds)
        return height // self._unit, width // self._unit


def padded(image: Any, mean: Sequence[float]) -> Any:
    """A PIL image in RGB in the middle of a square of its longer side, of the colour ``mean`` (of 1, by channel).

    As LLaVA's own code has it: the colour rounded down, an odd pixel of margin at the right or below.
    """
    from PIL import Image

    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    square = Image.new("RGB", (side, side), tuple(int(255 * value) for value in mean))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
