"""How far experiments are: cells done, running, failed, missing, and the time left. Needs no model and no cluster.

    python scripts/status.py [experiment=table_llava15] [results=results] [watch=10]

``experiment`` is a name, with or without its backbone at the end; without it, every experiment that was begun is told.
``watch=10`` tells again every 10 seconds until nothing is left to do. Exit status 1 where cells have failed, 2 where
there is no such experiment.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from clasp.evaluation.overview.status import StatusError, progress, told

KEYS = ("experiment", "results", "watch")


def parse(arguments: list[str]) -> dict[str, str]:
    """``key=value`` arguments as a dictionary; an unknown key or a bad number is an error."""
    values = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise StatusError(f"unknown argument {unknown[0]!r}; known: {', '.join(f'{key}=' for key in KEYS)}")
    if values.get("watch") and not (values["watch"].isdecimal() and 0 < int(values["watch"]) < 86_400):
        raise StatusError(f"watch={values['watch']} is not a whole number of seconds; say for example watch=10")
    return values


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        values = parse(arguments)
        results = Path(values.get("results") or "results")
        while True:
            found = progress(results, values.get("experiment") or None)
            print(told(found, results), flush=True)
            if not values.get("watch") or all(one.finished for one in found):
                return 1 if any(one.failed for one in found) else 0
            time.sleep(int(values["watch"]))
            print()
    except StatusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
