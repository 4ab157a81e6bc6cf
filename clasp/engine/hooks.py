"""What the engine installs on a model, none of which a copy of the model takes along."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


def _nothing(*args: Any) -> None:
    """What stands in a copied model in place of a hook."""


class Hook:
    """A forward pre-hook or hook; in a copy of its module it does nothing."""

    def __init__(self, callee: Callable[..., Any]) -> None:
        self._callee = callee

    def __call__(self, *args: Any) -> Any:
        return self._callee(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing


class Indexed(Hook):
    """A hook that passes its callee the index of its layer instead of the layer."""

    def __init__(self, callee: Callable[[int, tuple[Any, ...], Any], Any], index: int) -> None:
        super().__init__(callee)
        self._index = index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], more: Any) -> Any:
        return self._callee(self._index, args, more)


class Wrapped:
    """Stands in place of a module's method; a copy of the module has its own method again.

    Args:
        callee: called with the original method and its arguments.
    """

    def __init__(self, module: nn.Module, name: str, callee: Callable[..., Any]) -> None:
        self._module, self._name, self._callee = module, name, callee
        self.__wrapped__ = getattr(module, name)
        self.__signature__ = inspect.signature(self.__wrapped__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._callee(self.__wrapped__, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return MethodType(getattr(type(self._module), self._name), memo[id(self._module)])
