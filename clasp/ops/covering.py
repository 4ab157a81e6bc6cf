"""Greedy coverage: sets whose best members stand for all rows of a similarity matrix (facility location)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from clasp.ops.select import top_k
from clasp.ops.similarity import HELD, Cosines, blocks


class Coverage(Protocol):
    """How much each token covers each row, a value for each pair; read by rows and by columns."""

    @property
    def count(self) -> int:
        """Rows."""
        ...

    @property
    def tokens(self) -> int:
        """Columns."""
        ...

    def rows(self, index: Tensor) -> Tensor:
        """(batch, k) long -> (batch, k, tokens)."""
        ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in order: which, and (batch, rows, tokens)."""
        ...

    def column(self, pick: Tensor) -> Tensor:
        """(batch, 1) long -> (batch, count): how much that token covers each row."""
        ...


class CosineCoverage(Cosines):
    """:class:`Coverage` of tokens by one another: their cosine similarities."""

    @property
    def count(self) -> int:
        return self.tokens

    def column(self, pick: Tensor) -> Tensor:
        return self.rows(pick).squeeze(1)


class SoftmaxCoverage:
    """:class:`Coverage` of words and tokens by tokens, softmax over the tokens (MMTok, arXiv 2508.18264).

    The first rows are softmax_i(cos(word, token_i) / ``sharp``), divided by the number of real words; the others
    ``share`` softmax_i(cos(own_b, own_i) / ``soft``) for each token b, divided by the number of tokens.

    Args:
        words: (batch, words, dim).
        real: (batch, words) bool, the words that are not padding; rows of padding are zero.
        tokens: (batch, tokens, dim) in the space of the words.
        own: (batch, tokens, any) in a space of their own.
        sharp, soft: temperatures, above 0.
        share: weight of the rows of the second kind, non-negative.
    """

    def __init__(
        self, words: Tensor, real: Tensor, tokens: Tensor, own: Tensor, sharp: float, soft: float, share: float
    ) -> None:
        unit = torch.nn.functional.normalize(words.float(), dim=-1)
        logits = unit @ torch.nn.functional.normalize(tokens.float(), dim=-1).transpose(-1, -2) / sharp
        word_values = torch.softmax(logits, dim=-1) / real.sum(dim=1).clamp(min=1)[:, None, None]
        self._word_values = word_values.masked_fill(~real[..., None], 0.0)
        self._cosines, self._soft = Cosines(own), soft
        self.tokens = self._cosines.tokens
        self.count = self._word_values.shape[1] + self.tokens
        self._scale = share / self.tokens
        total = [torch.logsumexp(block / soft, dim=-1) for _, block in self._cosines.blocks()]
        self._total = torch.cat(total, dim=1)

    def rows(self, index: Tensor) -> Tensor:
        words = self._word_values.shape[1]
        own = (index - words).clamp(min=0)
        rows = self._softmax(self._cosines.rows(own), self._total.gather(1, own))
        if not words:
            return rows
        word_values = self._word_values.gather(1, index.clamp(max=words - 1)[..., None].expand(-1, -1, self.tokens))
        return torch.where((index < words)[..., None], word_values, rows)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        words = self._word_values.shape[1]
        for rows in blocks(words, self.tokens):
            yield rows, self._word_values[:, rows]
        for rows, block in self._cosines.blocks():
            yield slice(words + rows.start, words + rows.stop), self._softmax(block, self._total[:, rows])

    def column(self, pick: Tensor) -> Tensor:
        word_values = self._word_values.gather(2, pick[:, None].expand(-1, self._word_values.shape[1], 1)).squeeze(2)
        own = torch.exp(self._cosines.rows(pick).squeeze(1) / self._soft - self._total) * self._scale
        return torch.cat([word_values, own], dim=1)

    def _softmax(self, cosines: Tensor, total: Tensor) -> Tensor:
        return torch.exp(cosines / self._soft - total[..., None]) * self._scale


def cover(coverage: Coverage, weight: Tensor, keep: int) -> Tensor:
    """Greedy maximum coverage: adds, one by one, the token j of largest weight_j sum_r max(0, value_rj - covered_r).

    covered_r is the largest value that row r has from a chosen token, and zero before any is chosen, so that negative
    values never count. With equal weights this is greedy facility location, within 1 - 1/e of the best set (Nemhauser
    et al. 1978). Gains that are equal in float32 are ties, which go either way.

    A step changes the gains only through the rows that the last token covers better than all before it, about N / t of
    N rows at step t. Only these rows are read on a CPU, and on a GPU where the matrix of all pairs is too large to be
    held (one transfer to the host a step); elsewhere all rows are read.

    Args:
        weight: (batch, tokens) float32, non-negative.
        keep: from 1 to tokens.

    Returns:
        (batch, keep) long, ascending.
    """
    covered = torch.zeros(len(weight), coverage.count, device=weight.device)
    gains = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    for _, block in coverage.blocks():
        gains += block.clamp(min=0.0).sum(dim=1)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    everything = weight.is_cuda and coverage.tokens <= HELD
    for step in range(keep):
        pick = (weight * gains).masked_fill(taken, float("-inf")).argmax(dim=1, keepdim=True)
        taken.scatter_(1, pick, True)
        if step + 1 < keep:
            better = torch.maximum(covered, coverage.column(pick))
            gains -= _lost(coverage, covered, better, everything)
            covered = better
    return top_k(taken.int(), keep)


def _lost(coverage: Coverage, covered: Tensor, better: Tensor, everything: bool) -> Tensor:
    """(batch, tokens) by how much each token's gain falls when rows are covered ``better`` than before."""
    lost = torch.zeros(len(covered), coverage.tokens, dtype=torch.float64, device=covered.device)
    if everything:
        for rows, block in coverage.blocks():
            lost += _above(block, covered[:, rows], better[:, rows])
        return lost
    changed = better > covered
    index = top_k(changed.int(), int(changed.sum(dim=1).max()))
    for part in blocks(index.shape[1], coverage.tokens):
        some = index[:, part]
        lost += _above(coverage.rows(some), covered.gather(1, some), better.gather(1, some))
    return lost


def _above(values: Tensor, covered: Tensor, better: Tensor) -> Tensor:
    """(batch, tokens) sum over rows of what of (batch, rows, tokens) values lies between the two (batch, rows)."""
    return (values.clamp(min=covered[..., None]).minimum(better[..., None]) - covered[..., None]).sum(dim=1)
