"""Stride: evenly spaced visual tokens, before the decoder: a baseline that looks at nothing.

Of the N tokens of an image, in the order in which the decoder gets them, those at floor((k + 1/2) N / T), k = 0, ...,
T - 1, stay. Reviewers and VTC-Bench ask for it beside random and pooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from clasp.methods.base import Method
from clasp.methods.protocols import Scope, Selection, State


@dataclass(frozen=True, kw_only=True)
class Stride(Method):
    """Uniform stride over each image's visual tokens, order kept; no parameters of its own."""

    name: ClassVar[str] = "stride"
    scope: ClassVar[Scope] = "image"
    assumptions: ClassVar[tuple[str, ...]] = (
        "Stride runs over all tokens of an image or video, those of its crops and newlines one after another",
    )

    def select(self, state: State, keep: int) -> Selection:
        index = [(2 * k + 1) * state.visual_tokens // (2 * keep) for k in range(keep)]
        return Selection(torch.tensor(index).expand(len(state.seeds()), -1))
