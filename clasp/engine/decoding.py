"""Decoding on a pruned cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.engine.layout import Layout, causal_mask

_BROKEN = (
    "this step does not continue the pruned prefill: its position_ids or the cache's lengths disagree on what was "
    "generated since (assisted decoding crops caches); decode token by token without an assistant"
)


class DecodingStep:
    """One decoding step on a pruned cache: each run of layers has its own length, mask and maybe positions."""

    def __init__(self, adapter: Adapter, layouts: list[Layout], cache: Any) -> None:
        self._adapter, self._cache = adapter, cache
        # a later layout that starts at the same layer replaces an earlier one
        self._layouts = list({layout.layer: layout for layout in layouts}.values())
        self._origin = layouts[0]
        first = self._layouts[0]
        self._generated = cache.get_seq_length(first.layer) - first.length
        if any(cache.get_seq_length(run.layer) - run.length != self._generated for run in self._layouts):
            raise UnsupportedError(_BROKEN)
        self._arguments: dict[int, dict[str, Any]] = {}

    def decoder_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positions, and the padding mask where layer 0 itself is pruned, as the decoder's forward expects them."""
        first, changed = self._layouts[0], dict(kwargs)
        given, expected = kwargs.get("position_ids"), self._origin.next_position + self._generated
        if given is not None and bool((given != expected).any()):
            raise UnsupportedError(_BROKEN)
        if changed.get("position_ids") is None or first is not self._origin:
            changed["position_ids"] = first.next_position + self._generated
        if first is not self._origin:
            fresh = first.valid.new_ones(len(first.valid), self._generated + 1)
            changed["attention_mask"] = torch.cat([first.valid, fresh], dim=1) if first.padded else None
        return changed

    def layer_arguments(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        layout = next(layout for layout in reversed(self._layouts) if layout.layer <= index)
        if layout is self._layouts[0]:
            return kwargs
        if layout.layer not in self._arguments:
            mask = causal_mask(self._adapter, hidden, layout, self._cache, self._generated + 1)
            positions = layout.next_position + self._generated
            rotary = self._adapter.rotary(hidden, positions)
            self._arguments[layout.layer] = {
                "attention_mask": mask,
                "position_ids": positions,
                "position_embeddings": rotary,
            }
        return {**kwargs, **self._arguments[layout.layer]}
