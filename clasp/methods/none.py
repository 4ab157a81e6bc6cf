"""The unpruned model: the reference that every normalized score is divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clasp.budget import Schedule
from clasp.methods.base import Method
from clasp.methods.protocols import Selection, State


@dataclass(frozen=True, kw_only=True)
class Unpruned(Method):
    """Keeps every visual token; takes no budget."""

    name: ClassVar[str] = "none"
    prunes: ClassVar[bool] = False

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        return Schedule(visual_tokens, layers, nominal=visual_tokens)

    def select(self, state: State, keep: int) -> Selection:
        raise AssertionError("the unpruned model has no stages")
