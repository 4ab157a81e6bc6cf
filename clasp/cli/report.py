"""Builds an experiment's tables and figures from its results files, without a model.

    clasp-eval report experiment=tiny_main [published=1] [results=results] [wandb=offline]
    clasp-eval report experiment=all [published=1] [results=results] [wandb=offline]

Prints the paths of what it wrote and the table itself; ``all`` builds those of every experiment that has been run, and
``report.html`` from them; ``published=1`` also sets published rows beside ours, in ``tables/<experiment>_published.*``.
``wandb=offline`` or ``wandb=online`` logs each experiment's rows and files to Weights & Biases as one run (WANDB_MODE
wins; off by default), with the project and entity of configs/config.yaml. Exit status 1, with a sentence for each thing
that cannot be built or logged, 2 for bad arguments.
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
    from clasp.report.table_rows import Summary

Mode = Literal["off", "offline", "online"]
CONFIG = data_folder("configs") / "config.yaml"
ALL = "all"


@dataclass(frozen=True)
class ReportArguments:
    """``experiment``: a name, or :data:`ALL`; ``published``: whether published rows are set beside ours."""

    experiment: str = ""
    published: bool = False
    results: Path = Path("results")
    wandb: Mode = "off"

    def __post_init__(self) -> None:
        if not self.experiment:
            raise ConfigError("no experiment is named; say for example experiment=tiny_main, or experiment=all")


def main(arguments: Sequence[str]) -> int:
    """Builds and prints; the exit code is 1 where something cannot be built or logged, and 2 for bad input."""
    return run(ReportArguments, _report, arguments, str(__doc__))


def _report(arguments: ReportArguments) -> int:
    try:
        return _everything(arguments) if arguments.experiment == ALL else _experiment(arguments)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _experiment(arguments: ReportArguments) -> int:
    from clasp.report.build import build_fidelity, build_figures, build_published, build_table
    from clasp.report.load import load_experiment
    from clasp.report.summarize import summarize

    summary = summarize(load_experiment(arguments.experiment, arguments.results))
    print(build_table(summary))
    print(build_figures(summary))
    if build_fidelity(summary) is not None:
        print(f"table: {arguments.results / 'tables' / arguments.experiment}_agreement.md")
    if arguments.published:
        print(build_published(summary))
    return 0 if _logged([summary], arguments.wandb) else 1


def _everything(arguments: ReportArguments) -> int:
    from clasp.report.build import build_everything

    page, built = build_everything(arguments.results, arguments.published)
    problems = [f"error: {one.name}: {problem}" for one in built for problem in one.problems]
    print(f"report: {page} ({len(built)} experiments)")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    done = _logged([one.summary for one in built if one.summary is not None], arguments.wandb, page)
    return 0 if done and not problems else 1


def _logged(summaries: list[Summary], mode: Mode, page: Path | None = None) -> bool:
    """Logs the experiments unless ``mode`` is off; whether all could be. The logger itself says which could not."""
    if mode == "off":
        return True
    from omegaconf import OmegaConf

    from clasp.config import WandbConfig
    from clasp.report.wandb_log import log_report

    settings = WandbConfig(**{**OmegaConf.load(CONFIG).wandb, "enabled": True, "mode": mode})
    outcomes = [log_report(summary.experiment, settings, page) for summary in summaries]
    print(*(f"wandb: {one.message}" for one in outcomes if one.status != "failed"), sep="\n")
    return all(one.status != "failed" for one in outcomes)
