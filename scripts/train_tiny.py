"""Trains the tiny backbone from nothing: ``python scripts/train_tiny.py``.

The stages run in order and continue from their checkpoints, so the same command takes up a stopped run. At the end the
model is written to ``--out``, scored on the test sets, and the log's summary goes to ``--log``. To ship it, name
``--out clasp/tiny/weights --log results/reference/tiny_training.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from clasp.tiny.training import STAGES, Course, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="folder of the checkpoints")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="last stage to train")
    parser.add_argument("--out", type=Path, help="folder of the finished model (default: weights in --checkpoints)")
    parser.add_argument("--log", type=Path, help="summary of the training (default: training.json in --checkpoints)")
    parser.add_argument("--data", type=Path, default=Path("data/tiny"), help="folder of the benchmark files")
    parser.add_argument("--limit", type=int, help="score so many questions per set (default: all)")
    parser.add_argument("--note", default="", help="remark to keep in the log's summary")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    course = Course(arguments.checkpoints)
    for stage in STAGES[: STAGES.index(arguments.until) + 1]:
        course.run(stage)
    if arguments.until == STAGES[-1]:
        out = arguments.out or arguments.checkpoints / "weights"
        log = arguments.log or arguments.checkpoints / "training.json"
        finish(course, out, log, arguments.data, arguments.limit, arguments.note)


if __name__ == "__main__":
    main()
