"""Forward hooks that know where they sit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Indexed:
    """A forward pre-hook or hook that tells its callee which layer it sits on, in place of the layer itself."""

    def __init__(self, callee: Callable[[int, tuple[Any, ...], Any], Any], index: int) -> None:
        self._callee, self._index = callee, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], more: Any) -> Any:
        return self._callee(self._index, args, more)
