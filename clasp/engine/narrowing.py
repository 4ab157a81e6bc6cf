"""The layouts of one prefill, from the original sequence to the shortest, each after what the cache holds there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter
from clasp.engine.cache import cut
from clasp.engine.layout import Layout, causal_mask
from clasp.engine.past import LayerRun, Past, count_before
from clasp.ops.select import take


class Narrowing:
    """The sequence that each decoder layer computes on.

    Args:
        valid: (batch, length) bool on the CPU, of the original sequence.
        past: what the cache holds before it; None: nothing.
        reindexed: whether rotary positions are counted anew after a stage.

    Attributes:
        layouts: by layer, the original one first; a later one of the same layer replaces an earlier one.
        pruned: whether anything was dropped.
    """

    def __init__(self, adapter: Adapter, valid: Tensor, past: Past | None, reindexed: bool) -> None:
        self._adapter, self._valid, self._past, self._reindexed = adapter, valid, past, reindexed
        self.layouts: list[Layout] = []
        self.pruned = False
        self._arguments: dict[int, dict[str, Any]] = {}
        self._order = torch.empty(0)

    def start(self, hidden: Tensor, positions: Tensor, rotary: tuple[Tensor, Tensor]) -> None:
        """Takes the original layout.

        Args:
            positions: ([axes,] batch or 1, length) as the decoder got them.
            rotary: cosines and sines at them, (batch or 1, length, head_dim) each.
        """
        batch, length = self._valid.shape
        positions = (positions if positions.ndim == 3 else positions[None]).expand(-1, batch, -1)
        index = torch.arange(length).expand(batch, -1)
        cos, sin = (part.expand(batch, -1, -1) for part in rotary)
        valid, padded = self._valid.to(hidden.device), not bool(self._valid.all())
        following, run = self._adapter.next_position(positions, valid), None
        if self._past is not None:
            run = self._past.runs[0]
            following = torch.where(valid.any(dim=1)[:, None], following, run.next_position)
        known = (index, self._valid)
        place = index.to(hidden.device)
        self.layouts = [Layout(0, place, valid, padded, positions, (cos, sin), following, known, run)]

    def enter(self, layer: int, hidden: Tensor) -> None:
        """Adds a layout where the cache, from this layer on, holds other tokens of earlier turns than before it."""
        if self._past is None or not self._past.starts(layer):
            return
        layout, run = self.layouts[-1], self._past.at(layer)
        if self._reindexed:
            layout = self._counted(layout, run, hidden)
        self.layouts.append(replace(layout, layer=layer, past=run))

    def _counted(self, layout: Layout, run: LayerRun | None, hidden: Tensor) -> Layout:
        """The layout with positions counted anew, behind those of a run of the past."""
        before, count = count_before(layout.valid), layout.valid.sum(dim=1, keepdim=True)
        start = before.new_zeros(len(layout.positions), len(before), 1) if run is None else run.next_position
        positions = start + before
        rotary = self._adapter.rotary(hidden, positions)
        return replace(layout, positions=positions, rotary=rotary, next_position=start + count)

    def compact(
        self,
        layer: int,
        hidden: Tensor,
        keep: Tensor,
        source: Tensor,
        lengths: Sequence[int],
        bias: Tensor | None = None,
    ) -> Tensor:
        """Gathers what stays, right-aligned, and appends the layout that layers from ``layer`` on see.

        Args:
            keep: (batch, length) bool, the places that stay.
            source: (batch, length) long, the place from which each is filled.
            lengths: how many stay in each row.
            bias: (batch, length) float32, what is added to the attention logits of each key; None: nothing.
        """
        layout, length = self.layouts[-1], max(lengths)
        slots = keep.int().argsort(dim=1, stable=True)[:, -length:]
        order = self._order = source.gather(1, slots)
        hidden = take(hidden, order)
        compact = replace(
            layout,
            layer=layer,
            index=layout.index.gather(1, order),
            valid=keep.gather(1, slots),
            padded=min(lengths) < length,
            positions=layout.positions.gather(2, order.expand(len(layout.positions), -1, -1)),
            rotary=(take(layout.rotary[0], order), take(layout.rotary[1], order)),
            known=None,
            bias=None if bias is None else bias.gather(1, order),
        )
        if self._reindexed:
            compact = self._counted(compact, compact.past, hidden)
        self.layouts.append(compact)
        self.pruned = True
        return hidden

    def cut(self, cache: Any, method: str) -> None:
        """Drops from the cache of the layers already passed what the latest stage dropped.

        Raises:
            UnsupportedError: see :func:`~clasp.engine.cache.cut`.
        """
        layout, order = self.layouts[-1], self._order
        if layout.past is not None:  # what earlier turns left stays
            before = torch.arange(layout.past.length, device=order.device).expand(len(order), -1)
            order = torch.cat([before, order + layout.past.length], dim=1)
        cut(cache, layout.layer, order, method)

    def arguments(self, hidden: Tensor, cache: Any) -> dict[str, Any]:
        """What decoder layers of the latest layout are called with, where that is not the original one.

        Args:
            hidden: (batch, length, hidden) in that layout.
        """
        layout = self.layouts[-1]
        if len(self.layouts) == 1:
            return {}
        if layout.layer not in self._arguments:
            self._arguments[layout.layer] = {
                "attention_mask": causal_mask(
                    self._adapter, hidden, layout.layer, layout.attention_mask(), cache, layout.weighed()
                ),
                "position_ids": self._adapter.layer_positions(layout.positions),
                "position_embeddings": layout.rotary,
            }
        return self._arguments[layout.layer]

    def after(self, tail: int, visual: Sequence[Sequence[int]], alike: bool = False) -> Past:
        """What the cache holds after it.

        Args:
            tail: how many of the last tokens are text in every row.
            visual: of each row, how many visual tokens of each modality.
            alike: whether the cache of every layer holds what the last one's does.
        """
        by_layer = {layout.layer: layout for layout in self.layouts}
        if alike:
            by_layer = {0: replace(self.layouts[-1], layer=0)}
        origin, past = self.layouts[0], self._past
        given, pruned = origin.held(), self.pruned
        counts = torch.tensor(visual).to(origin.index.device, non_blocking=True)
        if past is not None:
            following = origin.next_position
            if self._reindexed:
                following = past.given.next_position + origin.valid.sum(dim=1, keepdim=True)
            given = past.given.grown(origin.real, origin.length, following)
            counts = torch.where(past.visual < 0, -1, past.visual + counts)
            pruned |= past.pruned
        return Past(given, tuple(layout.held() for layout in by_layer.values()), tail, counts, pruned)

    def scatter(self, hidden: Tensor) -> Tensor:
        """(batch, shorter, hidden) -> (batch, original length, hidden); dropped and padding rows are zero."""
        layout = self.layouts[-1]
        full = hidden.new_zeros(*self._valid.shape, hidden.shape[-1])
        batch = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(layout.index)
        if not layout.padded:
            return full.index_put_((batch, layout.index), hidden)
        return full.index_put_((batch[layout.valid], layout.index[layout.valid]), hidden[layout.valid])
