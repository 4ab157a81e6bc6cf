"""Scores the small backbone on its benchmarks with all visual tokens, with a gray image, and with pruning methods.

    python scripts/score_tiny.py [weights=clasp/tiny/weights] [split=calibration] [rows=N] [settings=all,blank,...]

``split=calibration`` uses scenes outside the test split, so it can be used during training. Its default settings are
random and the methods whose results may be inspected then. ``split=test`` is for a model with frozen weights; with
``log=FILE`` its scores are written to the training log, under ``accuracy``. A setting is all, blank, or a method with
its token count (random_64, random_64_contiguous). Scores are in percent, MME's in points.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clasp.arguments import run
from clasp.strict import ConfigError
from clasp.tiny import directory
from clasp.tiny.benchmarks import EASY_ALL, FEWEST

WEIGHTS = directory()
RANDOM = ("random_192", "random_128", "random_64")
USUAL = {"calibration": 96, "test": 144}
"""Maximum rows per benchmark; the test split takes about 15 minutes on two cores."""
SETTINGS = {
    "calibration": ("all", "blank", *RANDOM, "fastv_64", "visionzip_64", "divprune_64", "pdrop_64"),
    "test": ("all", "blank", *RANDOM, "random_64_contiguous", "fastervlm_64"),
}


@dataclass(frozen=True)
class Arguments:
    """Arguments. ``rows`` None or ``settings`` empty: the split's default (:data:`USUAL`, :data:`SETTINGS`)."""

    weights: Path = WEIGHTS
    split: Literal["calibration", "test"] = "calibration"
    rows: int | None = None
    settings: tuple[str, ...] = ()
    batch_size: int = 8
    threads: int | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and not FEWEST <= self.rows <= EASY_ALL:
            raise ConfigError(f"rows={self.rows} is out of range; use {FEWEST} to {EASY_ALL}")
        if self.log is not None and self.split != "test":
            raise ConfigError("log takes the scores on test questions; use split=test, or leave it out")
        if self.log is not None and not self.log.is_file():
            raise ConfigError(f"log={self.log} is missing; scripts/train_tiny.py writes it")


def score(asked: Arguments) -> int:
    """Computes and prints the scores; returns the exit code."""
    import torch  # imported after validation of the arguments, because the import is slow

    from clasp import load
    from clasp.evaluation.tiny_scores import averages, measure, method_of
    from clasp.tiny.training.loop import write_json

    settings, rows = asked.settings or SETTINGS[asked.split], asked.rows or USUAL[asked.split]
    try:
        for setting in settings:
            method_of(setting)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    model, processor = load(asked.weights)

    def advance(label: str) -> None:
        print(label, file=sys.stderr, flush=True)

    scores = measure(model, processor, settings, asked.split, rows, batch_size=asked.batch_size, advance=advance)
    shown = scores | ({"average, %": averages(scores)} if "all" in settings else {})
    print(" | ".join(["benchmark", *settings]))
    for name, own in shown.items():
        print(" | ".join([name, *(f"{own[setting]:.1f}" for setting in settings)]))
    if asked.log is not None:
        write_json(asked.log, json.loads(asked.log.read_text()) | {"rows": rows, "accuracy": scores})
    return 0


if __name__ == "__main__":
    sys.exit(run(Arguments, score, sys.argv[1:], str(__doc__)))
