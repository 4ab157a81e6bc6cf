"""Builds an experiment's tables and figures from its results files, without a model.

    python scripts/report.py experiment=tiny_main [published=1] [results=results] [wandb=offline]
    python scripts/report.py experiment=all [published=1] [results=results] [wandb=offline]

Prints the paths of what it wrote and the table itself; ``all`` builds those of every experiment that has been run, and
``report.html`` from them; ``published=1`` also sets published rows beside ours, in ``tables/<experiment>_published.*``.
``wandb=offline`` or ``wandb=online`` logs each experiment's rows and files to Weights & Biases as one run (WANDB_MODE
wins; off by default), with the project and entity of configs/config.yaml. Exit status 1, with a sentence for each thing
that cannot be built or logged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import OmegaConf

from clasp.config import WandbConfig
from clasp.report.build import build_figures, build_table
from clasp.report.cells import ReportError, load_experiment
from clasp.report.everything import build_everything, log_built
from clasp.report.published.table import build_published
from clasp.report.summary import Summary, summarize

KEYS = ("experiment", "published", "results", "wandb")
MODES = ("off", "offline", "online")
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "config.yaml"


def parse(arguments: list[str]) -> dict[str, str]:
    """``key=value`` arguments as a dictionary; an unknown key or a missing experiment is an error."""
    values = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [key for key in values if key not in KEYS]
    if unknown:
        raise ReportError(f"unknown argument {unknown[0]!r}; known: {', '.join(f'{key}=' for key in KEYS)}")
    if not values.get("experiment"):
        raise ReportError("no experiment is named; say for example experiment=tiny_main")
    if values.get("published") not in (None, "", "0", "1"):
        raise ReportError(f"published={values['published']} is not known; say published=1 or leave it out")
    if values.setdefault("wandb", "off") not in MODES:
        raise ReportError(f"wandb={values['wandb']} is not known; say one of {', '.join(MODES)}")
    return values


def logged(summaries: list[Summary], mode: str, page: Path | None = None) -> bool:
    """Logs the experiments unless ``mode`` is off; whether all could be. The logger itself says which could not."""
    if mode == "off":
        return True
    settings = WandbConfig(**{**OmegaConf.load(CONFIG).wandb, "enabled": True, "mode": mode})
    outcomes = [log_built(summary, settings, page) for summary in summaries]
    print(*(f"wandb: {one.message}" for one in outcomes if one.status != "failed"), sep="\n")
    return all(one.status != "failed" for one in outcomes)


def everything(results: Path, published: bool, wandb: str) -> int:
    page, built = build_everything(results, published)
    problems = [f"error: {one.name}: {problem}" for one in built for problem in one.problems]
    print(f"report: {page} ({len(built)} experiments)")
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    done = logged([one.summary for one in built if one.summary is not None], wandb, page)
    return 0 if done and not problems else 1


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        values = parse(arguments)
        results = Path(values.get("results") or "results")
        published = values.get("published") == "1"
        if values["experiment"] == "all":
            return everything(results, published, values["wandb"])
        summary = summarize(load_experiment(values["experiment"], results))
        print(build_table(summary))
        print(build_figures(summary))
        if published:
            print(build_published(summary))
        return 0 if logged([summary], values["wandb"]) else 1
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
