"""How far experiments are: cells done, running, failed, missing, and the time left. Needs no model and no cluster.

    clasp-eval status [experiment=table_llava15] [results=results] [watch=10]

``experiment`` is a name, with or without its backbone at the end; without it, all that were begun are listed.
``watch=10`` prints again every 10 seconds until nothing is left to do. Exit status 1 where cells have failed, 2 where
there is no such experiment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.launch.status import progress, status_report
from clasp.strict import ConfigError

LONGEST_WATCH_S = 86_400


@dataclass(frozen=True)
class StatusArguments:
    """``experiment`` None: all that were begun; ``watch``: seconds between two looks, None: one look."""

    experiment: str | None = None
    results: Path = Path("results")
    watch: int | None = None

    def __post_init__(self) -> None:
        if self.watch is not None and not 0 < self.watch <= LONGEST_WATCH_S:
            raise ConfigError(f"watch={self.watch} is not 1 to {LONGEST_WATCH_S} seconds; say for example watch=10")


def main(arguments: Sequence[str]) -> int:
    """Prints how far experiments are; the exit code is 1 where cells have failed, and 2 for bad input."""
    return run(StatusArguments, _print_status, arguments, str(__doc__))


def _print_status(given: StatusArguments) -> int:
    try:
        while True:
            found = progress(given.results, given.experiment)
            print(status_report(found, given.results), flush=True)
            if given.watch is None or all(one.finished for one in found):
                return 1 if any(one.failed for one in found) else 0
            time.sleep(given.watch)
            print()
    except KeyboardInterrupt:
        return 130
