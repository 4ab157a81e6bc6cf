"""The processes that share a cell's questions: one, unless a launcher starts several. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clasp.evaluation.generation.answering import Answerer
    from clasp.evaluation.model import ClaspModel


class Alone:
    """A process that shares its cells with no other."""

    rank = 0

    def begin(self, signature: str, ready: Callable[[], object]) -> None:
        """Announces a cell to the other processes; ``ready`` loads what it needs."""

    def model(self, answerer: Answerer, advance: Callable[[int], object]) -> ClaspModel:
        """The lmms-eval model that answers a cell's questions."""
        from clasp.evaluation.model import ClaspModel

        return ClaspModel.over(answerer, advance)

    def signatures(self) -> Iterator[str]:
        """In processes other than the first: the cells that the first one begins, until it ends."""
        return iter(())


ALONE = Alone()
