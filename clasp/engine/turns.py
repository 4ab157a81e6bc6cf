"""Forwards that continue a filled cache: their padding masks, and what the cache holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.engine.past import LayerRun, Past


def fresh_mask(ids: Tensor, cache: Any, mask: Tensor | None) -> Tensor | None:
    """(batch, length) mask of the tokens that follow on a cache; None where none is padding.

    Args:
        ids: (batch, length) these tokens.
        mask: (batch, cached + length) of all.

    Raises:
        UnsupportedError: it is not of all.
    """
    length, held = ids.shape[1], cache.get_seq_length()
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape[1] != held + length:
        raise UnsupportedError(
            f"an attention mask of shape {tuple(mask.shape)} does not fit a cache of {held} tokens and {length} new "
            f"ones; pass the 2D mask of both together"
        )
    # a single token is a generated one; to look whether a mask is full waits for the device
    return None if length == 1 or bool(mask[:, -length:].all()) else mask[:, -length:]


def fits(past: Past, ids: Tensor | None, arguments: Mapping[str, Any]) -> bool:
    """Whether a forward's inputs fit the known past; others are left to transformers where nothing is pruned."""
    mask = arguments.get("attention_mask")
    if ids is None or len(ids) != len(past.visual):
        return False
    return mask is None or mask.shape == (len(ids), past.given.length + ids.shape[1])


def unknown_past(adapter: Adapter, ids: Tensor, cache: Any, arguments: Mapping[str, Any]) -> Past:
    """What a cache holds that was filled outside of the context, or without an image: all that it was given.

    Args:
        ids: (batch, length) the tokens that follow.
        arguments: of the multimodal forward.

    Raises:
        UnsupportedError: positions are not given, where transformers derives them from what the model saw last.
    """
    held, given, mask = cache.get_seq_length(), arguments.get("position_ids"), arguments.get("attention_mask")
    if given is None:
        if adapter.geometry.multimodal_rotary:
            raise UnsupportedError(
                "positions of an image after a cache that was filled without one cannot be derived; pass "
                "position_ids (generate does), or prefill the whole conversation anew"
            )
        start = torch.full((1, len(ids), 1), held, device=ids.device)
    else:
        given = (given if given.ndim == 3 else given[None]).expand(-1, len(ids), -1)
        first = torch.zeros_like(ids[:, :1]) if mask is None else mask[:, held:].long().argmax(dim=1, keepdim=True)
        start = given.gather(2, first.expand(len(given), -1, -1))
    run = LayerRun(0, held, None if mask is None else mask[:, :held].bool(), start)
    visual = torch.full((len(ids), len(adapter.placeholders)), -1, device=ids.device)
    return Past(run, (run,), 0, visual, pruned=False)
