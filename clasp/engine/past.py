"""What a KV cache holds of the tokens before: as they were given, and what each run of decoder layers kept of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def count_before(valid: Tensor) -> Tensor:
    """(batch, length) bool -> (batch, length) long: valid tokens before each."""
    return valid.long().cumsum(dim=1) - valid.long()


@dataclass(frozen=True)
class LayerRun:
    """What the decoder layers from ``layer`` on hold.

    Args:
        valid: (batch, length) bool; None: no padding.
        next_position: (axes, batch, 1) rotary position of the token that follows.
        bias: (batch, length) float32, what is added to the attention logits of each key; None: nothing.
    """

    layer: int
    length: int
    valid: Tensor | None
    next_position: Tensor
    bias: Tensor | None = None

    def positions(self, before: Tensor) -> Tensor:
        """(axes, batch, length) positions of tokens that follow, with ``before`` valid ones of them before each."""
        return self.next_position + before

    def attention_mask(self, more: Tensor | None, fresh: int) -> Tensor | None:
        """(batch, length + fresh) bool, the mask when ``fresh`` tokens follow, ``more`` (batch, fresh) of them valid.

        None, for ``more`` as for the result, means that all are valid.
        """
        if self.valid is None and more is None:
            return None
        parts = ((self.valid, self.length), (more, fresh))
        batch, like = self.next_position.shape[1], self.next_position
        ones = (like.new_ones(batch, count, dtype=torch.bool) if part is None else part for part, count in parts)
        return torch.cat([*ones], dim=1)

    def weighed(self, more: Tensor | None, fresh: int) -> Tensor | None:
        """(batch, length + fresh) the bias when ``fresh`` tokens follow, whose own is ``more``; None: there is none."""
        if self.bias is None and more is None:
            return None
        batch = self.next_position.shape[1]
        parts = ((self.bias, self.length), (more, fresh))
        like = self.next_position
        none = (like.new_zeros(batch, count, dtype=torch.float32) if part is None else part for part, count in parts)
        return torch.cat([*none], dim=1)

    def grown(self, more: Tensor | None, fresh: int, next_position: Tensor) -> LayerRun:
        """With ``fresh`` tokens more, of no bias."""
        return LayerRun(
            self.layer, self.length + fresh, self.attention_mask(more, fresh), next_position, self.weighed(None, fresh)
        )

    def cropped(self, tokens: int, removed: Tensor) -> LayerRun:
        """Without the last ``tokens``, of which ``removed`` (batch, 1) are valid in each row."""
        valid, bias = (None if part is None else part[:, :-tokens] for part in (self.valid, self.bias))
        return LayerRun(self.layer, self.length - tokens, valid, self.next_position - removed, bias)

    def rows(self, index: Tensor) -> LayerRun:
        """Some rows of the batch, in this order."""
        valid, bias = (None if part is None else part[index] for part in (self.valid, self.bias))
        return LayerRun(self.layer, self.length, valid, self.next_position[:, index], bias)


@dataclass(frozen=True)
class Past:
    """The tokens of a cache.

    Args:
        given: all that were passed to the model.
        runs: by ascending layer, the first from layer 0; what is dropped is in none from its stage on.
        tail: how many of the last tokens are text that every run holds: these may be cropped.
        visual: (batch, modalities) long, visual tokens of each row as they were given; negative: not known.
        pruned: whether anything was dropped.
    """

    given: LayerRun
    runs: tuple[LayerRun, ...]
    tail: int
    visual: Tensor
    pruned: bool

    def at(self, layer: int) -> LayerRun:
        """The run that a decoder layer is in."""
        return next(run for run in reversed(self.runs) if run.layer <= layer)

    def starts(self, layer: int) -> bool:
        """Whether a run begins at this layer, other than the first."""
        return layer > 0 and self.at(layer).layer == layer

    @property
    def hidden(self) -> int:
        """How many tokens layer 0 does not hold."""
        return self.given.length - self.runs[0].length

    def fitted(self, lengths: Sequence[int]) -> Past | None:
        """Without what was cropped from the cache since; None where the lengths do not say how much was.

        Args:
            lengths: tokens that each layer of the cache holds.
        """
        missing = {run.length - lengths[run.layer] for run in self.runs if run.layer < len(lengths)}
        tokens = missing.pop() if len(missing) == 1 else -1
        if not tokens:
            return self
        if missing or not 0 < tokens <= self.tail:
            return None
        valid = self.given.valid
        like = self.given.next_position[0]
        removed = torch.full_like(like, tokens) if valid is None else valid[:, -tokens:].sum(dim=1, keepdim=True)
        return replace(
            self,
            given=self.given.cropped(tokens, removed),
            runs=tuple(run.cropped(tokens, removed) for run in self.runs),
            tail=self.tail - tokens,
        )

    def grown(self, valid: Tensor | None, fresh: int) -> Past:
        """With ``fresh`` tokens of text more, ``valid`` (batch, fresh) bool of them no padding; None: all."""

        def longer(run: LayerRun) -> LayerRun:
            more = fresh if valid is None else valid.sum(dim=1, keepdim=True)
            return run.grown(valid, fresh, run.next_position + more)

        return replace(self, given=longer(self.given), runs=tuple(map(longer, self.runs)), tail=self.tail + fresh)

    def rows(self, index: Tensor) -> Past:
        """Some rows of the batch, in this order: as a cache is reordered, repeated or thinned."""
        index = index.to(self.visual.device)
        runs = tuple(run.rows(index) for run in self.runs)
        return replace(self, given=self.given.rows(index), runs=runs, visual=self.visual[index])
