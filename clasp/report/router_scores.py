"""The routers' accuracy, confusion matrices and time, from ``<results>/router.json`` alone, as a report section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from clasp.reading import LARGEST_NUMBER
from clasp.report.layout import pipe_table
from clasp.report.load import STRICT, read_stored
from clasp.report.statistics import LEVEL, Interval
from clasp.results.schema import Count, Label, load

FILE = "router.json"
SCHEMA = 1
REMEDY = "delete it and run 'clasp-eval router' again"
SETS = {
    "unseen": "unseen prompts in benchmarks' phrasing",
    "wordings": "unseen prompts in people's own words",
    "world": "the small world's questions",
}
"""Names of the sets as a reader sees them; another set goes by its own name."""


@dataclass(frozen=True, config=STRICT)
class RouterScore:
    """One router on one set."""

    confusion: tuple[tuple[Count, ...], ...]  # prompts by (true category, routed category)
    ms_per_prompt: Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]  # wall time, with empty caches

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
        """95 % interval of the accuracy, which is in [0, 1]: Wilson's score interval (E. B. Wilson, 1927)."""
        from scipy.stats import binomtest  # takes a second to import

        return Interval(*binomtest(self.right, self.prompts).proportion_ci(LEVEL, "wilson"))


@dataclass(frozen=True, config=STRICT)
class PromptSet:
    """A set of labelled prompts and each router's scores on it; ``hash`` is of its texts and labels."""

    hash: Label
    prompts: Annotated[Count, Field(ge=1)]
    routers: dict[str, RouterScore]

    @property
    def ranked(self) -> list[tuple[str, RouterScore]]:
        """The routers by name, the most accurate first."""
        return sorted(self.routers.items(), key=lambda item: -item[1].accuracy)


@dataclass(frozen=True, config=STRICT)
class RouterScores:
    """Everything measured about routers."""

    categories: tuple[Label, ...]  # in the order of the confusions' rows and columns
    sets: dict[str, PromptSet]  # by name, in the order of the file
    batch: Count  # prompts per call when timed
    device: dict[str, Any]  # on which the times were measured
    provenance: dict[str, Any]

    @model_validator(mode="after")
    def _check_confusions(self) -> RouterScores:
        for name, prompts in self.sets.items():
            for router, score in prompts.routers.items():
                sizes = {len(score.confusion), *map(len, score.confusion)}
                if sizes != {len(self.categories)} or score.prompts != prompts.prompts:
                    raise ValueError(f"confusion of {router} on {name} does not fit its categories and prompts")
        return self


def load_router_scores(results: Path) -> RouterScores | None:
    """The measurement below ``results``; None where routers have not been measured.

    Raises:
        ReportError: the file is broken or of another version.
    """
    path = results / FILE
    return read_stored(load, RouterScores, path, SCHEMA, REMEDY) if path.is_file() else None


def markdown(scores: RouterScores) -> str:
    """A table of accuracies and times, and for each set the confusions of its most accurate router."""
    table, confusions = [], []
    for name, prompts in scores.sets.items():
        what = SETS.get(name, name)
        for router, score in prompts.ranked:
            low, high = score.interval
            share = f"{100 * score.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            table.append([what, router, f"{score.right} of {score.prompts}", share, f"{score.ms_per_prompt:.2f}"])
        best, score = prompts.ranked[0]
        counts = [[category, *map(str, row)] for category, row in zip(scores.categories, score.confusion, strict=True)]
        heads = ["true \\ routed", *scores.categories]
        right = [False, *[True] * len(scores.categories)]
        confusions += ["", f"### Where `{best}` sends {what}", "", *pipe_table(heads, counts, right)]
    heads = ["prompts", "router", "right", "accuracy, % [95 %]", "ms per prompt"]
    ranking = pipe_table(heads, table, [False, False, True, True, True])
    return "\n".join(["## Routers", "", *ranking, "", note(scores), *confusions]) + "\n"


def note(scores: RouterScores) -> str:
    """What the numbers mean."""
    threads = scores.device.get("threads")
    return (
        "Intervals are Wilson's. `oracle` is right by definition and not measured. Times: batches of "
        f"{scores.batch} on a CPU, {threads} thread(s), encoder loaded, no prompt seen before, fastest pass."
    )
