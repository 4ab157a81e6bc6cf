"""Commands on stored results, without Hydra.

Each command is a dataclass: its fields are the ``key=value`` arguments, its docstring is the help text, and calling it
runs it and returns the exit code.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.data import data_folder
from clasp.strict import ConfigError, config_errors

LONGEST_WATCH_S = 86_400


def main(name: str, arguments: Sequence[str]) -> int:
    """Runs a command of :data:`COMMANDS`; returns the exit code."""
    kind = COMMANDS[name]
    return run(kind, lambda command: command(), arguments, inspect.cleandoc(str(kind.__doc__)))


@dataclass(frozen=True)
class Status:
    """How far experiments are: cells done, running, failed, missing, and the time left. Needs no model and no cluster.

        clasp-eval status [experiment=table_llava15] [results=results] [watch=10]

    ``experiment`` is a name, with or without its backbone at the end; without it, all that were begun are listed.
    ``watch=10`` prints again every 10 seconds until nothing is left to do. Exit status 1 where cells have failed, 2
    where there is no such experiment.
    """

    experiment: str | None = None
    results: Path = Path("results")
    watch: int | None = None

    def __post_init__(self) -> None:
        if self.watch is not None and not 0 < self.watch <= LONGEST_WATCH_S:
            raise ConfigError(f"watch={self.watch} is not 1 to {LONGEST_WATCH_S} seconds; say for example watch=10")

    def __call__(self) -> int:
        from clasp.launch.status import progress, status_report

        try:
            while True:
                found = progress(self.results, self.experiment)
                print(status_report(found, self.results), flush=True)
                if self.watch is None or all(one.finished for one in found):
                    return 1 if any(one.failed for one in found) else 0
                time.sleep(self.watch)
                print()
        except KeyboardInterrupt:
            return 130


@dataclass(frozen=True)
class Submission:
    """Makes the file that VQAv2's evaluation server scores, from a cell of the benchmark vqav2_testdev.

        clasp-eval submission cell=SIGNATURE [results=results] [questions=v2_..._questions.json] [output=FILE]

    `questions` is the data set's file of the whole test split: the server wants every question of it named, and those
    outside of test-dev get empty answers. Exit status: 0, or 2 for bad input.
    """

    cell: str = ""
    results: Path = Path("results")
    questions: Path | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.cell:
            raise ConfigError("no cell is given; say cell=SIGNATURE, as results/experiments/ lists them")

    def __call__(self) -> int:
        from clasp.evaluation.vqa_server import submit

        print(f"wrote {submit(self.results, self.cell, self.output, self.questions)}")
        return 0


@dataclass(frozen=True)
class Router:
    """Measures every router on labelled prompts: accuracy, confusions, milliseconds per prompt.

        clasp-eval router [results=results]

    Writes <results>/router.json and <results>/tables/router.md, and prints the latter. Exit status 1, with one
    sentence, where a router cannot work here, 2 for bad arguments.
    """

    results: Path = Path("results")

    def __call__(self) -> int:
        from clasp.evaluation.routing.scores import measure_all
        from clasp.files import write_atomically
        from clasp.methods.clasp.router import RouterError
        from clasp.report.router_scores import load_router_scores, markdown

        try:
            measured = measure_all(self.results)
        except RouterError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        scores = load_router_scores(self.results)
        assert scores is not None  # written above
        text = markdown(scores)
        written = write_atomically(self.results / "tables" / "router.md", text.encode())
        print(f"{text}\nwrote {measured}\nwrote {written}")
        return 0


@dataclass(frozen=True)
class Fidelity:
    """Sets the small model's ranking of methods against published LLaVA-1.5-7B results; writes a table and a figure.

        clasp-eval fidelity [experiment=fidelity_tiny] [results=results] [published=results/published/accuracy.csv]

    The experiment's cells must be there: ``make fidelity`` computes them first.
    """

    experiment: str = "fidelity_tiny"
    results: Path = Path("results")
    published: Path = data_folder("published") / "accuracy.csv"

    def __call__(self) -> int:
        from clasp.report.fidelity import as_markdown, measure, write
        from clasp.report.load import load_experiment

        with config_errors():
            found = measure(load_experiment(self.experiment, self.results), self.published)
        print(as_markdown(found))
        print(*(f"written: {path}" for path in write(found, self.results)), sep="\n")
        return 0


@dataclass(frozen=True)
class UpperBound:
    """Checks the stored unpruned scores of a backbone against known ones, within their standard error.

        clasp-eval upper-bound backbone=llava_1_5_7b [results=results]

    Exit status: 0 all are within, 1 some are outside, 2 cells are missing (the command that makes them is printed) or
    the check cannot be made.
    """

    backbone: str = ""
    results: Path = Path("results")

    def __post_init__(self) -> None:
        if not self.backbone:
            raise ConfigError("no backbone is named; say for example backbone=tiny")

    def __call__(self) -> int:
        from clasp.report.published.upper_bound import check, describe

        with config_errors():
            found = check(self.backbone, self.results)
        print(describe(found))
        return found.status


COMMANDS: dict[str, type[Status | Submission | Router | Fidelity | UpperBound]] = {
    "status": Status,
    "submission": Submission,
    "router": Router,
    "fidelity": Fidelity,
    "upper-bound": UpperBound,
}
