"""``clasp-eval COMMAND ...``: every command of the evaluation, from any folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from clasp.arguments import BAD_INPUT
from clasp.cli import commands
from clasp.strict import unknown_key

HYDRA_COMMANDS = ("run", "plan", "prefetch", "calibrate", "retention")
COMMANDS = {
    "run": "computes the cells of methods x budgets x benchmarks",
    "plan": "what a run would do: cells, jobs, hours, disk",
    "prefetch": "fetches what a run needs, for machines that reach no hub",
    "status": "how far experiments are",
    "report": "tables, figures and the HTML page from stored cells",
    "judge": "scores answers that wait for a judge",
    "submission": "the file that VQAv2's evaluation server scores",
    "calibrate": "chooses CLASP's fusion and pivot share per category",
    "retention": "which visual tokens methods keep of a few images",
    "router": "accuracy, confusions and speed of the text routers",
    "fidelity": "the tiny backbone's ranking of methods against published results",
    "upper-bound": "stored unpruned scores against known ones",
    "demo": "a local page to try methods on",
}


def main() -> int:
    """Runs the command that ``sys.argv`` names; returns its exit code."""
    program, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        print(f"{__doc__}\n")
        print(*(f"  {name:12} {meaning}" for name, meaning in COMMANDS.items()), sep="\n")
        print("\n`clasp-eval COMMAND --help` says what it takes.")
        return 0 if words else BAD_INPUT
    name, *arguments = words
    if name not in COMMANDS:
        problem = str(unknown_key(name, tuple(COMMANDS))).replace("unknown key", "unknown command")
        print(f"error: {problem}", file=sys.stderr)
        return BAD_INPUT
    sys.argv = [f"{Path(program).name} {name}", *arguments]  # results record it in this form
    if name in HYDRA_COMMANDS:
        from clasp.cli.jobs import compose_and_run

        return compose_and_run(name)
    if name in commands.COMMANDS:
        return commands.main(name, arguments)
    return int(importlib.import_module(f"clasp.cli.{name}").main(arguments))
