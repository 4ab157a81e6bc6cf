"""Trains the tiny backbone from nothing.

    python scripts/train_tiny.py [checkpoints=checkpoints] [until=answer] [out=<checkpoints>/weights]
                                 [log=<checkpoints>/training.json] [data=data/tiny] [limit=N] [note=TEXT] [threads=N]

The stages see, read, align and answer run in order, up to ``until``, and continue from their checkpoints, so the same
command takes up a stopped run. At the end the model is written to ``out``, scored on the test sets below ``data``
(``limit`` questions of each, default all), and the log's summary goes to ``log``, with ``note`` in it. To ship it, name
``out=clasp/tiny/weights log=results/reference/tiny_training.json``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.strict import ConfigError
from clasp.tiny import STAGES, Stage


@dataclass(frozen=True)
class Arguments:
    """``out``, ``log`` None: beside the checkpoints; ``limit`` None: all questions; ``threads`` None: torch's own."""

    checkpoints: Path = Path("checkpoints")
    until: Stage = STAGES[-1]
    out: Path | None = None
    log: Path | None = None
    data: Path = Path("data/tiny")
    limit: int | None = None
    note: str = ""
    threads: int | None = None

    def __post_init__(self) -> None:
        for key, value in (("limit", self.limit), ("threads", self.threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{key}={value} is below 1; give a whole number of at least 1, or leave it out")


def train(asked: Arguments) -> int:
    """The exit code."""
    import torch  # once the arguments are known to be good: it takes longer than telling that not

    from clasp.tiny.training import Course, finish

    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    course = Course(asked.checkpoints)
    for stage in STAGES[: STAGES.index(asked.until) + 1]:
        course.run(stage)
    if asked.until == STAGES[-1]:
        out = asked.out or asked.checkpoints / "weights"
        log = asked.log or asked.checkpoints / "training.json"
        finish(course, out, log, asked.data, asked.limit, asked.note)
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, train, sys.argv[1:], str(__doc__)))
