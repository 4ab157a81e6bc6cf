"""Downsample: a smaller image, for backbones of native resolution: a baseline that looks at nothing.

Before the processor, an image of which N visual tokens would come is scaled so that at most T do: its sides by about
sqrt(T / N), to whole tokens. Reviewers and VTC-Bench (arXiv 2510.07143) ask for it: in 48 of 65 published cells
downsampled images beat every designed method. Unlike pooling, the ViT does not see what is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Schedule
from clasp.methods.base import Method
from clasp.methods.protocols import Selection, State


@dataclass(frozen=True, kw_only=True)
class Downsample(Method):
    """Images scaled down before the ViT; no parameters of its own.

    Evaluation scales them (:class:`clasp.backbones.presentation.Downscaling`). Whoever opens the context around a model
    hands the processor scaled images: one with more than ``tokens`` is an error, a ``ratio`` cannot be checked.
    """

    name: ClassVar[str] = "downsample"
    label: ClassVar[str] = "Downsampling"
    resizes: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "Downsample's images are scaled by bicubic interpolation, each side rounded down to whole tokens",
    )

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        return Schedule(target, layers, nominal=target)

    def select(self, state: State, keep: int) -> Selection:
        raise AssertionError("downsampling has no stages")

    def size(self, height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of tokens of the smaller image, at most those of the budget.

        Args:
            height, width: of the image, in pixels.
            rows, columns: of tokens that it has as it is.
        """
        total = rows * columns
        if self.tokens is not None and self.tokens >= total:
            return rows, columns
        target = self.target(total)
        high = min(max(1, math.floor(math.sqrt(target * height / width))), rows, target)
        wide = min(max(1, math.floor(math.sqrt(target * width / height))), columns, target // high)
        return high, wide
