"""Makes the file that VQAv2's evaluation server scores, from a cell of the benchmark vqav2_testdev.

    clasp-eval submission cell=SIGNATURE [results=results] [questions=v2_..._questions.json] [output=FILE]

`questions` is the data set's file of the whole test split: the server wants every question of it named, and those
outside of test-dev get empty answers. Exit status: 0, or 2 for bad input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.evaluation.vqa_server import submit
from clasp.strict import ConfigError


@dataclass(frozen=True)
class SubmissionArguments:
    """As :func:`submit` takes them; ``cell`` is its signature."""

    cell: str = ""
    results: Path = Path("results")
    questions: Path | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.cell:
            raise ConfigError("no cell is given; say cell=SIGNATURE, as results/experiments/ lists them")


def main(arguments: Sequence[str]) -> int:
    """Writes the file; returns the exit code."""
    return run(SubmissionArguments, _submit, arguments, str(__doc__))


def _submit(arguments: SubmissionArguments) -> int:
    print(f"wrote {submit(arguments.results, arguments.cell, arguments.output, arguments.questions)}")
    return 0
