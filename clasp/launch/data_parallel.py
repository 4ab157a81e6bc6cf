"""Several processes that share the questions of each cell: lmms-eval's data parallel, through accelerate.

lmms-eval deals the questions out, evens the number of requests with copies of the last one, and gathers scores and
samples in the first process. Here the first process also decides which cell comes next, and gathers the answers with
their costs. An error in one process is reported to all at the same point, so that none waits for another that has moved
on. Torch is imported by those that are several alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clasp.evaluation.processes import Alone

if TYPE_CHECKING:
    from clasp.evaluation.generation.answering import Answerer
    from clasp.evaluation.model import ClaspModel


def processes() -> int:
    """How many processes share the cells, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Team(Alone):
    """Process number ``rank`` of several; a context manager, at whose end in the first process the others end too.

    Args:
        device: as in the configuration; the attribute is the one that this process is to use.
    """

    def __init__(self, device: str) -> None:
        from datetime import timedelta

        import torch
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        cpu = device == "cpu" or not torch.cuda.is_available()
        patient = InitProcessGroupKwargs(timeout=timedelta(days=1))  # shares of a cell may differ by hours
        self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[patient])
        self.rank = self.accelerator.process_index
        self.device = "cpu" if cpu else f"cuda:{self.accelerator.local_process_index}"

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.rank == 0 and (error is None or isinstance(error, Exception)):
            self._sent(None)
        if error is None:
            self.accelerator.end_training()

    def begin(self, signature: str, ready: Callable[[], object]) -> None:
        """A cell begins in all of them; ``ready`` does what it needs first. Errors as of :meth:`together`."""
        if self.rank == 0:
            self._sent(signature)
        self.together(ready)

    def signatures(self) -> Iterator[str]:
        """In the other processes: the cells that the first one begins, until it ends."""
        while (signature := self._sent(None)) is not None:
            yield signature

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """Calls ``work`` in all processes and returns their results, in their order.

        Raises:
            RuntimeError: it went wrong in another process; in this one it is raised as it is.
        """
        import torch.distributed as dist

        mine: Any = None
        own: Exception | None = None
        try:
            mine = work()
        except Exception as error:
            own = error
        outcomes: list[Any] = [None] * self.accelerator.num_processes
        dist.all_gather_object(outcomes, (mine, None if own is None else f"{type(own).__name__}: {own}"))
        if own is not None:
            raise own
        for rank, (_, complaint) in enumerate(outcomes):
            if complaint is not None:
                raise RuntimeError(f"process {rank}: {complaint}")
        return [made for made, _ in outcomes]

    def model(self, answerer: Answerer, advance: Callable[[int], object]) -> ClaspModel:
        from clasp.evaluation.model import ClaspModel

        team = self

        class Shared(ClaspModel):
            """Answers its share; afterwards ``answers`` has those of all processes, in the order of the questions."""

            def generate_until(self, requests: list[Any]) -> list[str]:
                own = list({request.doc_id: request for request in requests}.values())  # without the copies
                shares = team.together(lambda: self._share(own))
                answered = dict(pair for share in shares for pair in share)
                texts = [answered[request.doc_id].text for request in requests]
                self.answers = [answered[number] for number in sorted(answered)]
                return texts

            def _share(self, requests: list[Any]) -> list[tuple[int, Any]]:
                super().generate_until(requests)
                return [(request.doc_id, answer) for request, answer in zip(requests, self.answers, strict=True)]

        made = Shared.over(answerer, advance)
        made.accelerator = self.accelerator
        return made

    def _sent(self, signature: str | None) -> str | None:
        """What the first process sends to all."""
        import torch.distributed as dist

        box = [signature]
        dist.broadcast_object_list(box, src=0)
        return box[0]
