"""Measures every router on labelled prompts: accuracy, confusions, milliseconds per prompt.

    python scripts/router.py [results=results]

Writes <results>/router.json and <results>/tables/router.md, and prints the latter. Exit status 1, with one sentence,
where a router cannot work here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from clasp.evaluation.routing.scores import measure_all
from clasp.files import write_atomically
from clasp.report.cells import ReportError
from clasp.report.router import load_router_scores, markdown
from clasp.router import RouterError


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    values = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in values if key != "results"]
    if unknown:
        print(f"error: unknown argument {unknown[0]!r}; known: results=", file=sys.stderr)
        return 1
    results = Path(values.get("results") or "results")
    try:
        measured = measure_all(results)
        scores = load_router_scores(results)
    except (RouterError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    assert scores is not None  # just written
    text = markdown(scores)
    written = write_atomically(results / "tables" / "router.md", text.encode())
    print(f"{text}\nwrote {measured}\nwrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
