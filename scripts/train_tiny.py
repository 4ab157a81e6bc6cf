"""Trains the small backbone from nothing.

    python scripts/train_tiny.py [checkpoints=checkpoints] [since=see] [until=deepen] [threads=N]

The stages see, refine, read, align, answer and deepen run in order, from ``since`` to ``until``, and go on from their
checkpoints, so the same command takes up a stopped run. Of earlier stages, checkpoints are taken over where they are.
``read`` needs nothing of see and refine: ``since=read until=read`` trains it beside them. results/testbed holds the
checkpoint of refine: copied into ``checkpoints``, it spares the first two stages.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.strict import ConfigError
from clasp.tiny.training import STAGES, Stage


@dataclass(frozen=True)
class Arguments:
    """``threads`` None: torch's own."""

    checkpoints: Path = Path("checkpoints")
    since: Stage = STAGES[0]
    until: Stage = STAGES[-1]
    threads: int | None = None

    def __post_init__(self) -> None:
        if STAGES.index(self.since) > STAGES.index(self.until):
            raise ConfigError(f"since={self.since} comes after until={self.until}; the order is {', '.join(STAGES)}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads} is below 1; give a whole number of at least 1, or leave it out")


def train(asked: Arguments) -> int:
    """The exit code."""
    import torch  # once the arguments are known to be good: it takes longer than telling that not

    from clasp.tiny.training.course import Course

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    course = Course(asked.checkpoints)
    first, last = STAGES.index(asked.since), STAGES.index(asked.until)
    for stage in STAGES[:first]:
        course.trainer(stage)  # takes over its checkpoint
    for stage in STAGES[first : last + 1]:
        course.run(stage)
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, train, sys.argv[1:], str(__doc__)))
