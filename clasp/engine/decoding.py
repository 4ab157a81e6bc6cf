"""Decoding on a pruned cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.engine.layout import Layout, causal_mask

_BROKEN = (
    "this step does not continue the pruned prefill: its position_ids or the cache's lengths disagree on what was "
    "generated since (assisted decoding crops caches, and threads that share a Qwen-VL model share its positions); "
    "decode token by token without an assistant, one prompt or batch at a time"
)


class DecodingStep:
    """One decoding step on a pruned cache: each run of layers has its own length, mask and maybe positions."""

    def __init__(self, adapter: Adapter, layouts: list[Layout], cache: Any) -> None:
        self._adapter, self.cache = adapter, cache
        # a later layout that starts at the same layer replaces an earlier one
        self._layouts = list({layout.layer: layout for layout in layouts}.values())
        self._origin = layouts[0]
        first = self._layouts[0]
        self._generated = cache.get_seq_length(first.layer) - first.length
        if any(cache.get_seq_length(run.layer) - run.length != self._generated for run in self._layouts):
            raise UnsupportedError(_BROKEN)
        self._arguments: dict[int, dict[str, Any]] = {}

    def model_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The multimodal forward's arguments with the original sequence's positions, which a shorter cache hides."""
        given, expected = kwargs.get("position_ids"), self._origin.next_position + self._generated
        if given is not None:
            if bool(((given if given.ndim == 3 else given[None]) != expected).any()):
                raise UnsupportedError(_BROKEN)
            return kwargs
        return {**kwargs, "position_ids": _plain(expected)}

    def decoder_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positions and padding mask where layer 0 itself is pruned, as the decoder's forward expects them."""
        first = self._layouts[0]
        if first is self._origin:
            return kwargs
        fresh = first.valid.new_ones(len(first.valid), self._generated + 1)
        mask = torch.cat([first.valid, fresh], dim=1) if first.padded else None
        return {**kwargs, "position_ids": _plain(first.next_position + self._generated), "attention_mask": mask}

    def layer_arguments(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        layout = next(layout for layout in reversed(self._layouts) if layout.layer <= index)
        if layout is self._layouts[0] and layout.bias is None:
            return kwargs
        if layout.layer not in self._arguments:
            positions = layout.next_position + self._generated
            self._arguments[layout.layer] = {
                "attention_mask": causal_mask(self._adapter, hidden, layout, self.cache, self._generated + 1),
                "position_ids": self._adapter.layer_positions(positions),
                "position_embeddings": self._adapter.rotary(hidden, positions),
            }
        return {**kwargs, **self._arguments[layout.layer]}


def _plain(positions: Tensor) -> Tensor:
    """(axes, batch, 1) as a forward takes it: (batch, 1) with one axis."""
    return positions[0] if len(positions) == 1 else positions
