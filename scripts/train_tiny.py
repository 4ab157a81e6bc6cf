"""Trains the small backbone from nothing, and ships it.

    python scripts/train_tiny.py [checkpoints=checkpoints] [since=see] [until=export] [threads=N]

The stages see, refine, read, align, answer, deepen, gather and withdraw run in order, from ``since`` to ``until``, and
go on from their checkpoints, so the same command takes up a stopped run. Of earlier stages, checkpoints are taken over
where they are. ``read`` needs nothing of see and refine: ``since=read until=read`` trains it beside them.

``export`` writes the shipped model to ``target`` and the log to ``log``, as far as the checkpoints go: ``since=export``
does only that. scripts/score_tiny.py measures what came of it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from clasp.arguments import run
from clasp.strict import ConfigError
from clasp.tiny import directory
from clasp.tiny.training import STAGES, Stage

Step = Literal[Stage, "export"]
STEPS: tuple[Step, ...] = get_args(Step)
WEIGHTS = directory()
LOG = Path(__file__).parents[1] / "results/reference/tiny_training.json"


@dataclass(frozen=True)
class Arguments:
    """``threads`` None: torch's own."""

    checkpoints: Path = Path("checkpoints")
    since: Step = STEPS[0]
    until: Step = STEPS[-1]
    threads: int | None = None
    target: Path = WEIGHTS
    log: Path = LOG

    def __post_init__(self) -> None:
        if STEPS.index(self.since) > STEPS.index(self.until):
            raise ConfigError(f"since={self.since} comes after until={self.until}; the order is {', '.join(STEPS)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads} is below 1; give a whole number of at least 1, or leave it out")


def train(arguments: Arguments) -> int:
    """The exit code."""
    import torch  # once the arguments are known to be good: it takes long

    from clasp.tiny.training.course import Course
    from clasp.tiny.training.shipping import ship

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    first, last = STEPS.index(arguments.since), STEPS.index(arguments.until)
    stages = STAGES[first : last + 1]
    if stages:
        course = Course(arguments.checkpoints)
        for stage in STAGES[:first]:
            course.trainer(stage)  # takes over its checkpoint
        for stage in stages:
            course.run(stage)
    if arguments.until == "export":
        ended = ship(arguments.checkpoints, arguments.target, arguments.log)
        print(f"written: {arguments.target}, {arguments.log}" + ("" if ended else "; the training has not ended"))
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, train, sys.argv[1:], str(__doc__)))
