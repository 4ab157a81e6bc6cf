"""Several processes that share the questions of each cell: lmms-eval's data parallelism, through accelerate.

lmms-eval distributes the questions, repeats the last one so that all processes have equally many, and gathers scores
and samples in the first process. Here the first process also decides which cell comes next, and gathers the answers
with their costs. An error in one process is raised in all at the same point, so that none waits for another forever.
A single process does not import torch here.
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
    """Number of processes that share the cells, as the launcher set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Team(Alone):
    """This process as number ``rank`` of several; a context manager that on exit of the first process ends the others.

    Args:
        device: as in the configuration; the attribute is the device of this process.
    """

    def __init__(self, device: str) -> None:
        from datetime import timedelta

        import torch
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        cpu = device == "cpu" or not torch.cuda.is_available()
        long_timeout = InitProcessGroupKwargs(timeout=timedelta(days=1))  # processes may need hours more than others
        self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[long_timeout])
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
        """Starts a cell in all processes and calls ``ready`` in each; raises as :meth:`together` does."""
        if self.rank == 0:
            self._sent(signature)
        self.together(ready)

    def signatures(self) -> Iterator[str]:
        """For the other processes: the cells that the first one starts, until it ends."""
        while (signature := self._sent(None)) is not None:
            yield signature

    def together(self, work: Callable[[], Any]) -> list[Any]:
        """Calls ``work`` in all processes and returns their results, in their order.

        Raises:
            RuntimeError: ``work`` failed in another process; an error in this process is raised unchanged.
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
            """Answers its share; afterwards ``answers`` holds those of all processes, in the questions' order."""

            def generate_until(self, requests: list[Any]) -> list[str]:
                own = list({request.doc_id: request for request in requests}.values())  # without the repeated ones
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
        """Returns in every process the signature that the first process passes."""
        import torch.distributed as dist

        box = [signature]
        dist.broadcast_object_list(box, src=0)
        return box[0]
