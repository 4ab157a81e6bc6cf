"""Builds an experiment's tables and figures from its results files, without a model.

    clasp-eval report experiment=tiny_main [published=1] [results=results] [wandb=offline]
    clasp-eval report experiment=all [published=1] [results=results] [wandb=offline]

Prints the paths of what it wrote and the table itself; ``all`` builds those of every experiment that has been run, and
``report.html`` from them; ``published=1`` also writes ``tables/<experiment>_published.*``, ours beside published rows.
``wandb=offline`` or ``wandb=online`` logs each experiment's rows and files to Weights & Biases as one run (WANDB_MODE
wins; off by default), with the project and entity of configs/config.yaml. Exit status 1, with a sentence for each thing
that cannot be built or logged, 2 for bad arguments. A figure for which the results have no points, as those of very few
questions, is no error: a note says which one is missing, why, and what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clasp.arguments import run
from clasp.data import data_folder
from clasp.report.load import ReportError
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.report.html.page import Built

Mode = Literal["off", "offline", "online"]
CONFIG = data_folder("configs") / "config.yaml"
ALL = "all"


@dataclass(frozen=True)
class ReportArguments:
    """``experiment``: a name, or :data:`ALL`; ``published``: whether to write tables beside published rows, too."""

    experiment: str = ""
    published: bool = False
    results: Path = Path("results")
    wandb: Mode = "off"

    def __post_init__(self) -> None:
        if not self.experiment:
            raise ConfigError("no experiment is named; say for example experiment=tiny_main, or experiment=all")


def main(arguments: Sequence[str]) -> int:
    """Builds and prints; returns the exit code."""
    return run(ReportArguments, _report, arguments, str(__doc__))


def _report(arguments: ReportArguments) -> int:
    from clasp.report.build import build_everything, build_experiment

    name, results, page = arguments.experiment, arguments.results, None
    try:
        if name == ALL:
            page, built = build_everything(results, arguments.published)
            print(f"report: {page} ({len(built)} experiments)")
        else:
            built = [build_experiment(name, results, arguments.published)]
            _print_written(built[0], arguments.published)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for one in built:
        where = f"{one.name}: " if page else ""
        for text in one.undrawn:
            print(f"note: {where}{text}")
        for text in one.problems:
            print(f"error: {where}{text}", file=sys.stderr)
    failed = any(one.problems for one in built)
    return 0 if _logged(built, arguments.wandb, page) and not failed else 1


def _print_written(built: Built, published: bool) -> None:
    """Prints the Markdown tables, each followed by the paths of what was written after it."""
    for path in built.paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
        print(f"{'table' if path.parent.name == 'tables' else 'figure'}: {path}")
    if published and built.summary and built.summary.experiment.spec.published is None:
        print(f"published: nothing is published beside experiment {built.name!r} (report.published names none)")


def _logged(built: list[Built], mode: Mode, page: Path | None) -> bool:
    """Logs the experiments unless ``mode`` is off; whether all could be. The logger itself says which could not."""
    if mode == "off":
        return True
    from omegaconf import OmegaConf

    from clasp.config import WandbConfig
    from clasp.report.wandb_log import log_report

    settings = WandbConfig(**{**OmegaConf.load(CONFIG).wandb, "enabled": True, "mode": mode})
    outcomes = [log_report(one.summary.experiment, settings, page) for one in built if one.summary is not None]
    print(*(f"wandb: {one.message}" for one in outcomes if one.status != "failed"), sep="\n")
    return all(one.status != "failed" for one in outcomes)
