"""A KV cache that knows that it is pruned: only the context that pruned it may go on with it.

Its layers have different lengths, and rotary positions and masks that nothing but the prefill's layouts tell. A model
that goes on with it as with any other cache would compute on wrong ones without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from weakref import ReferenceType, ref

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.cache_utils import DynamicLayer

from clasp.backbones.base import UnsupportedError
from clasp.engine.layout import Layout

_MARK = "_clasp_pruned"


class Mark:
    """Who pruned a cache, and how; copies of the cache share it.

    Args:
        owner: the run that may go on with it, whose ``serves(cache)`` says that it is doing so.
        method: its name.
        layouts: of the prefill.
    """

    def __init__(self, owner: Any, method: str, layouts: list[Layout]) -> None:
        self.owner: ReferenceType[Any] = ref(owner)
        self.method, self.layouts = method, layouts

    def __deepcopy__(self, memo: dict[int, Any]) -> Mark:
        return self

    def refusal(self) -> UnsupportedError:
        return UnsupportedError(
            f"this cache was pruned by method {self.method!r}: its layers have lengths and positions that only the "
            f"context that pruned it knows; go on inside that context, or prefill the whole conversation anew"
        )


class _Guarded:
    """Mixed into the class of a pruned cache: refuses tokens that come from elsewhere."""

    def update(self, *args: Any, **kwargs: Any) -> Any:
        mark = mark_of(self)
        if mark is not None:
            if not self.get_seq_length():  # type: ignore[attr-defined]  # emptied, to be filled anew
                _unmark(self)
            elif (owner := mark.owner()) is None or not owner.serves(self):
                raise mark.refusal()
        return super().update(*args, **kwargs)  # type: ignore[misc]


@cache
def _guarded(plain: Any) -> type:
    return type(plain.__name__, (_Guarded, plain), {"__module__": plain.__module__})


def mark(cache: Any, owner: Any, method: str, layouts: list[Layout]) -> None:
    """Marks a cache as pruned."""
    if not isinstance(cache, _Guarded):
        kind: Any = type(cache)
        cache.__class__ = _guarded(kind)
    setattr(cache, _MARK, Mark(owner, method, layouts))


def mark_of(cache: Any) -> Mark | None:
    """How a cache was pruned, if it was."""
    return getattr(cache, _MARK, None)


def _unmark(cache: Any) -> None:
    delattr(cache, _MARK)


def cut(cache: Any, layers: int, places: Tensor, method: str) -> None:
    """Leaves some places alone in the first ``layers`` layers of a cache.

    Args:
        places: (batch, any) long, which, in their new order.
        method: that asks for it.

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
