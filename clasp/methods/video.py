"""What methods for videos share: a video's tokens by frame, and the tokens that are in no frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clasp.methods.protocols import Frames, State
from clasp.ops.select import take


@dataclass(frozen=True)
class Clip:
    """The tokens of a state before the decoder, by frame.

    Args:
        frames: of the state.
        index: (rows, count x size) long, its frames' tokens one frame after the other, among the row's tokens.
        loose: (rows, others) long, tokens of no frame (newlines), ascending.
        keep: how many tokens of the frames stay: the budget without the loose tokens, at least one.
    """

    frames: Frames
    index: Tensor
    loose: Tensor
    keep: int

    @classmethod
    def of(cls, state: State, keep: int) -> Clip:
        """Of a state from which nothing has been dropped."""
        frames = state.frames()
        whole = frames.count * frames.size
        order = (frames.frame * frames.size + frames.place).masked_fill(frames.frame < 0, whole)
        order = order.argsort(dim=1, stable=True)
        others = min(order.shape[1] - whole, keep - 1)
        return cls(frames, order[:, :whole], order[:, whole : whole + others], keep - others)

    def by_frame(self, values: Tensor) -> Tensor:
        """(rows, tokens, ...) of the state -> (rows, count, size, ...)."""
        return take(values, self.index).unflatten(1, (self.frames.count, self.frames.size))

    def chosen(self, stays: Tensor) -> Tensor:
        """(rows, count, size) bool, equally many in each row, -> (rows, kept) long among the row's tokens, ascending,
        the loose ones with them."""
        kept = self.keep
        place = (~stays.flatten(1)).int().argsort(dim=1, stable=True)[:, :kept]
        return torch.cat([self.index.gather(1, place), self.loose], dim=1).sort(dim=1).values

    def back(self, values: Tensor, tokens: Tensor) -> Tensor:
        """(rows, count, size, dim) of the frames -> (rows, tokens, dim), with ``tokens`` at the others' places."""
        places = self.index[..., None].expand(-1, -1, values.shape[-1])
        return tokens.scatter(1, places, values.flatten(1, 2).to(tokens.dtype))
