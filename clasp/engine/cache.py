"""A KV cache marked with what it holds; only the context that pruned a cache may continue it.

The layers of a pruned cache differ in length, and only the layouts of the prefill say which rotary positions and masks
belong to them. A model that continued it as an unpruned cache would compute on wrong ones without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.cache_utils import DynamicLayer

from clasp.backbones.base import UnsupportedError
from clasp.engine.past import Past

_MARK = "_clasp_past"


class Mark:
    """Which run filled a cache, and with what; copies of the cache share it.

    Args:
        owner: the only run that may continue a pruned cache; its ``serves(cache)`` is true while it does.
        method: name of the run's method.
        past: what the cache holds.
    """

    def __init__(self, owner: ReferenceType[Any], method: str, past: Past) -> None:
        self.owner, self.method, self.past = owner, method, past

    def __deepcopy__(self, memo: dict[int, Any]) -> Mark:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # another process has no such run

    def refusal(self) -> UnsupportedError:
        return UnsupportedError(
            f"this cache was pruned by method {self.method!r}: its layers have lengths and positions that only the "
            f"context that pruned it has; continue inside that context, or prefill the whole conversation anew"
        )


class _Marked:
    """Mixed into the class of a cache: reports the unpruned sequence's length, reorders its mark with its rows, and
    refuses tokens from outside the run that pruned it."""

    def update(self, *args: Any, **kwargs: Any) -> Any:
        mark = mark_of(self)
        if mark is not None and mark.past.pruned:
            if not super().get_seq_length():  # type: ignore[misc]  # emptied, to be filled anew
                delattr(self, _MARK)
            elif (owner := mark.owner()) is None or not owner.serves(self):
                raise mark.refusal()
        return super().update(*args, **kwargs)  # type: ignore[misc]

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        """Tokens of the sequence as `generate` counts them, also where layer 0 holds fewer; or what one layer holds."""
        if layer_idx is not None:
            return super().get_seq_length(layer_idx)  # type: ignore[misc]
        held, mark = super().get_seq_length(), mark_of(self)  # type: ignore[misc]
        return held + mark.past.hidden if held and mark is not None else held

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._follow(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._follow(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        if (mark := mark_of(self)) is not None:
            self._follow(torch.arange(len(mark.past.visual)).repeat_interleave(repeats))

    def _follow(self, rows: Tensor) -> None:
        if (mark := mark_of(self)) is not None:
            setattr(self, _MARK, Mark(mark.owner, mark.method, mark.past.rows(rows)))


@cache
def _marked(plain: Any) -> type:
    return type(plain.__name__, (_Marked, plain), {"__module__": plain.__module__})


def mark(cache: Any, owner: Any, method: str, past: Past) -> None:
    """Notes what a cache holds; one that is not pruned stays of its class."""
    if past.pruned and not isinstance(cache, _Marked):
        kind: Any = type(cache)
        cache.__class__ = _marked(kind)
    setattr(cache, _MARK, Mark(ref(owner), method, past))


def mark_of(cache: Any) -> Mark | None:
    """The mark of a cache that was filled inside a context; None: it was filled outside."""
    return getattr(cache, _MARK, None)


def held_lengths(cache: Any) -> list[int]:
    """Tokens that each layer of a cache holds."""
    return [layer.get_seq_length() for layer in cache.layers]


def cut(cache: Any, layers: int, places: Tensor, method: str) -> None:
    """Keeps only some places in the first ``layers`` layers of a cache.

    Args:
        places: (batch, any) long, those to keep, in their new order.
        method: name of the method, for the message.

    Raises:
        UnsupportedError: the cache keeps keys and values in a form that cannot be gathered from.
    """
    for layer in cache.layers[:layers]:
        if type(layer) is not DynamicLayer:
            raise UnsupportedError(
                f"method {method!r} cuts the KV cache of layers already passed, which a {type(layer).__name__} does "
                f"not let it; use the default cache (cache_implementation='dynamic')"
            )
        for name in ("keys", "values"):
            held = getattr(layer, name)
            index = places.to(held.device)[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
            setattr(layer, name, held.gather(2, index))


def cache_bytes(cache: Any) -> int:
    """Bytes of keys and values in a cache, in the form that they are kept in; 0 without one."""
    if cache is None:
        return 0
    return sum(tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in _held(vars(layer)))


def _held(value: Any) -> Iterator[Tensor]:
    """Every plain tensor in a layer's attributes: quantised keys and values are tuples, dictionaries or wrappers."""
    if isinstance(value, Tensor):
        if is_traceable_wrapper_subclass(value):
            for name in value.__tensor_flatten__()[0]:
                yield from _held(getattr(value, name))
        else:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _held(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _held(part)
