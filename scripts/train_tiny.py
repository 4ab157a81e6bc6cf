"""Trains the small backbone from nothing.

    python scripts/train_tiny.py [checkpoints=checkpoints] [until=deepen] [only=STAGE] [threads=N]

The stages see, refine, read, align, answer and deepen run in order, up to ``until``, and continue from their
checkpoints, so the same command takes up a stopped run. ``read`` needs nothing of see and refine: ``only=read`` trains
it beside them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.strict import ConfigError
from clasp.testbed.training import STAGES, Stage


@dataclass(frozen=True)
class Arguments:
    """``only`` None: every stage up to ``until``; ``threads`` None: torch's own."""

    checkpoints: Path = Path("checkpoints")
    until: Stage = STAGES[-1]
    only: Stage | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads} is below 1; give a whole number of at least 1, or leave it out")


def train(asked: Arguments) -> int:
    """The exit code."""
    import torch  # once the arguments are known to be good: it takes longer than telling that not

    from clasp.testbed.training.course import Course

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    course = Course(asked.checkpoints)
    for stage in (asked.only,) if asked.only else STAGES[: STAGES.index(asked.until) + 1]:
        course.run(stage)
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, train, sys.argv[1:], str(__doc__)))
