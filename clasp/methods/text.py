"""What text-guided methods share: which tokens of the prompt count as its text."""

from __future__ import annotations

from dataclasses import dataclass

from clasp.methods.base import Method
from clasp.methods.protocols import Span


@dataclass(frozen=True, kw_only=True)
class TextGuided(Method):
    """A method guided by the prompt's text, which in its official code is everything after the image.

    Args:
        text: ``after_image``, as there: the question with what the chat template puts behind it; or the
            ``instruction`` alone, the user's own words.
    """

    text: Span = "after_image"

    def span(self) -> Span:
        return self.text

    def assumed(self) -> tuple[str, ...]:
        if self.text == "after_image":
            return super().assumed()
        note = f"{self.name}: its text is the instruction alone; the official code takes everything after the image"
        return (*super().assumed(), note)
