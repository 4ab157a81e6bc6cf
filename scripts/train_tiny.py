"""Trains the small backbone from scratch and exports it.

    python scripts/train_tiny.py [checkpoints=checkpoints] [since=see] [until=export] [threads=N]

The stages see, refine, read, align, answer, deepen, gather and withdraw run in order, from ``since`` to ``until``. Each
continues from its checkpoint, so the same command resumes a stopped run. Existing checkpoints of earlier stages are
loaded. ``read`` does not depend on see and refine: ``since=read until=read`` can train it in parallel.

``export`` writes the shipped model to ``target`` and the log to ``log``, from the checkpoints that exist;
``since=export`` runs only this step. scripts/score_tiny.py measures the exported model.
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
    """Command-line arguments. ``threads`` None: torch's default."""

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
    """Runs the stages and the export; returns the exit code."""
    import torch  # imported after validation of the arguments, because the import is slow

    from clasp.tiny.training.course import Course
    from clasp.tiny.training.shipping import ship

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    first, last = STEPS.index(arguments.since), STEPS.index(arguments.until)
    stages = STAGES[first : last + 1]
    if stages:
        course = Course(arguments.checkpoints)
        for stage in STAGES[:first]:
            course.trainer(stage)  # loads its checkpoint
        for stage in stages:
            course.run(stage)
    if arguments.until == "export":
        ended = ship(arguments.checkpoints, arguments.target, arguments.log)
        print(f"written: {arguments.target}, {arguments.log}" + ("" if ended else "; the training has not ended"))
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, train, sys.argv[1:], str(__doc__)))
