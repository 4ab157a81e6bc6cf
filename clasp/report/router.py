"""The routers' accuracy, confusions and time, from ``<results>/router.json`` alone, as a section of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clasp.reading import conform, read_object
from clasp.records import ROUTERS
from clasp.report.files import ReportError
from clasp.report.statistics import Interval
from clasp.strict import shown

FILE = "router.json"
SCHEMA = 1
COMMAND = "python scripts/router.py"
SETS = {
    "unseen": "unseen prompts in benchmarks' phrasing",
    "wordings": "unseen prompts in people's own words",
    "world": "the picture world's questions",
}
"""Names of the sets as a reader sees them; another set goes by its own name."""
_Z = 1.959964  # normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class RouterScore:
    """One router on one set.

    Args:
        dataset: name of the set.
        router: name of the router.
        confusion: prompts by (true category, routed category).
        ms_per_prompt: wall time in milliseconds, nothing kept from earlier prompts.
    """

    dataset: str
    router: str
    confusion: tuple[tuple[int, ...], ...]
    ms_per_prompt: float

    @property
    def prompts(self) -> int:
        return sum(map(sum, self.confusion))

    @property
    def right(self) -> int:
        """Prompts that went to their own category."""
        return sum(row[index] for index, row in enumerate(self.confusion))

    @property
    def accuracy(self) -> float:
        return self.right / self.prompts

    @property
    def interval(self) -> Interval:
        """95 % interval of the accuracy, which is in [0, 1]."""
        return wilson(self.right, self.prompts)


@dataclass(frozen=True)
class RouterScores:
    """Everything measured about routers.

    Args:
        categories: in the order of the confusions' rows and columns.
        scores: by set, then router, as measured.
        batch: prompts per call when timed.
        hashes: set -> hash of its texts and labels.
        device: what the times were taken on.
        provenance: commit, command, versions and times.
    """

    categories: tuple[str, ...]
    scores: tuple[RouterScore, ...]
    batch: int
    hashes: Mapping[str, str]
    device: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def of(self, dataset: str) -> list[RouterScore]:
        """The routers' scores on one set, the most accurate first."""
        return sorted((score for score in self.scores if score.dataset == dataset), key=lambda score: -score.accuracy)


def wilson(right: int, total: int) -> Interval:
    """Wilson's 95 % score interval of a share (E. B. Wilson, 1927), which stays within [0, 1].

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"{right} of {total} is no share; give 0 <= right <= total with total above 0")
    share, scale = right / total, 1 + _Z**2 / total
    center = (share + _Z**2 / (2 * total)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return Interval(max(0.0, center - half), min(1.0, center + half))


def load_router_scores(results: Path) -> RouterScores | None:
    """The measurement below ``results``; None where routers have not been measured.

    Raises:
        ReportError: the file is broken or of another version.
    """
    path = results / FILE
    if not path.is_file():
        return None
    try:
        content = read_object(path)
        conform(content, ROUTERS)
        if content["schema"] != SCHEMA:
            raise ReportError(
                f"{path} has schema {shown(content['schema'])}, this code reads {SCHEMA}; run '{COMMAND}' again"
            )
        return _parsed(content)
    except ReportError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ReportError(f"{path} cannot be read ({error!r}); delete it and run '{COMMAND}' again") from error


def _parsed(content: Mapping[str, Any]) -> RouterScores:
    categories = tuple(str(category) for category in content["categories"])
    scores = tuple(
        RouterScore(
            dataset,
            router,
            tuple(tuple(int(count) for count in row) for row in entry["confusion"]),
            float(entry["ms_per_prompt"]),
        )
        for dataset, group in content["sets"].items()
        for router, entry in group["routers"].items()
    )
    for score in scores:
        sizes = {len(score.confusion), *map(len, score.confusion)}
        negative = any(count < 0 for row in score.confusion for count in row)
        if sizes != {len(categories)} or negative or score.prompts != content["sets"][score.dataset]["prompts"]:
            raise ValueError(f"confusion of {score.router} on {score.dataset} does not fit its categories and prompts")
        if not score.prompts or not 0 <= score.ms_per_prompt < math.inf:
            raise ValueError(f"{score.router} on {score.dataset} has no prompts or no time")
    hashes = {dataset: str(group["hash"]) for dataset, group in content["sets"].items()}
    device, origin = dict(content["device"]), dict(content["provenance"])
    return RouterScores(categories, scores, int(content["batch"]), hashes, device, origin)


def markdown(scores: RouterScores) -> str:
    """A table of accuracies and times, and for each set the confusions of its most accurate router."""
    lines = ["## Routers", "", *_accuracies(scores), "", note(scores)]
    for dataset in scores.hashes:
        for score in scores.of(dataset)[:1]:
            lines += ["", f"### Where `{score.router}` sends {_title(dataset)}", "", *_confusion(scores, score)]
    return "\n".join(lines) + "\n"


def _accuracies(scores: RouterScores) -> list[str]:
    lines = ["| prompts | router | right | accuracy, % [95 %] | ms per prompt |", "|---|---|---:|---:|---:|"]
    for dataset in scores.hashes:
        for score in scores.of(dataset):
            low, high = score.interval
            share = f"{100 * score.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            right = f"{score.right} of {score.prompts}"
            lines.append(f"| {_title(dataset)} | {score.router} | {right} | {share} | {score.ms_per_prompt:.2f} |")
    return lines


def _confusion(scores: RouterScores, score: RouterScore) -> list[str]:
    lines = [f"| true \\ routed | {' | '.join(scores.categories)} |", "|---|" + "---:|" * len(scores.categories)]
    for category, row in zip(scores.categories, score.confusion, strict=True):
        lines.append(f"| {category} | {' | '.join(str(count) for count in row)} |")
    return lines


def note(scores: RouterScores) -> str:
    """What the numbers mean."""
    threads = scores.device.get("threads")
    return (
        "Intervals are Wilson's. `oracle` is right by definition and not measured. Times: batches of "
        f"{scores.batch} on a CPU, {threads} thread(s), encoder loaded, no prompt seen before, fastest pass."
    )


def _title(dataset: str) -> str:
    return SETS.get(dataset, dataset)
