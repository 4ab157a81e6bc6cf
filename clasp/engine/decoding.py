"""Text behind a pruned cache: a decoding step, a further turn, several candidates at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.engine.layout import causal_mask
from clasp.engine.past import LayerRun, Past, count_before

BROKEN = (
    "this step does not continue the pruned prefill: its position_ids or the cache's lengths disagree on what came "
    "since (prompts padded on the right, a cache that was cropped beyond its last text); pad on the left, crop no "
    "further than the text behind the last image, or prefill the whole conversation anew"
)


class Continuation:
    """Tokens of text on a pruned cache: each run of layers has its own length, mask and maybe positions.

    Args:
        past: what the cache holds.
        valid: (batch, length) bool, those that are no padding; None: all.
        length: how many tokens.
        reindexed: whether each run counts its positions anew.
    """

    def __init__(
        self, adapter: Adapter, past: Past, cache: Any, valid: Tensor | None, length: int, reindexed: bool
    ) -> None:
        self._adapter, self._past, self.cache = adapter, past, cache
        self._valid, self._length, self._reindexed = valid, length, reindexed
        self._before = count_before(valid) if valid is not None else torch.arange(length, device=past.visual.device)
        self._arguments: dict[int, dict[str, Any]] = {}

    def model_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The multimodal forward's arguments with the original sequence's positions.

        Raises:
            UnsupportedError: others were given, where they are the caller's.
        """
        if not self._past.pruned:
            return kwargs
        positions = checked(self._adapter, self._past.given.positions(self._before), self._valid, kwargs)
        return {**kwargs, "position_ids": plain(positions)}

    def decoder_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Positions and padding mask as layer 0 has them, for the decoder's forward."""
        return {**kwargs, **first_arguments(self._past, self._before, self._valid, self._length, self._reindexed)}

    def layer_arguments(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Those of decoder layer ``index``."""
        run = self._past.at(index)
        if run is self._past.runs[0] and run.bias is None:
            return kwargs
        if run.layer not in self._arguments:
            attention_mask = run.attention_mask(self._valid, self._length)
            bias = run.weighed(None, self._length)
            own = {"attention_mask": causal_mask(self._adapter, hidden, run.layer, attention_mask, self.cache, bias)}
            if self._reindexed:
                own |= self._placed(run, hidden)
            self._arguments[run.layer] = own
        return {**kwargs, **self._arguments[run.layer]}

    def _placed(self, run: LayerRun, hidden: Tensor) -> dict[str, Any]:
        positions = run.positions(self._before)
        return {
            "position_ids": self._adapter.layer_positions(positions),
            "position_embeddings": self._adapter.rotary(hidden, positions),
        }

    def after(self) -> Past:
        """What the cache holds after it."""
        return self._past.grown(self._valid, self._length)


def counts_anew(positions: str, adapter: Adapter) -> bool:
    """Whether a method's ``positions`` are counted anew after a stage."""
    return positions == "contiguous" and not adapter.geometry.multimodal_rotary


def first_arguments(past: Past, before: Tensor, valid: Tensor | None, length: int, reindexed: bool) -> dict[str, Any]:
    """The decoder's arguments that differ from the model's where layer 0 holds less than was given."""
    first = past.runs[0]
    own: dict[str, Any] = {"attention_mask": first.attention_mask(valid, length)} if past.pruned else {}
    if reindexed and past.pruned:
        own["position_ids"] = plain(first.positions(before))
    return own


def checked(adapter: Adapter, expected: Tensor, valid: Tensor | None, arguments: dict[str, Any]) -> Tensor:
    """(axes, batch, length) the expected positions.

    Those that a caller gives must be these. With multimodal positions they are not the caller's: transformers derives
    them from what the model saw last, which may be another conversation.

    Raises:
        UnsupportedError: other ones are given.
    """
    given = arguments.get("position_ids")
    if given is not None and not adapter.geometry.multimodal_rotary:
        differs = given != expected[0]
        if bool((differs if valid is None else differs & valid).any()):
            raise UnsupportedError(BROKEN)
    return expected


def plain(positions: Tensor) -> Tensor:
    """(axes, batch, length) as a forward takes it: (batch, length) with one axis."""
    return positions[0] if len(positions) == 1 else positions
