"""Compares the stored unpruned scores of a backbone with scores that others, or the training, measured for it.

Targets of published backbones are the unpruned lmms-eval runs in results/published/accuracy.csv (method ``none``,
protocol ``lmms-eval``: the harness that is ours too); those of the tiny one are the scores on all test questions in
results/reference/tiny_training.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from typing_extensions import TypedDict

from clasp.report.layout import benchmark_label, percent_factor
from clasp.report.load import UNPRUNED, ReportError, read_answers, read_cell, read_stored
from clasp.report.metrics import MAKERS, sampled
from clasp.report.published.read import read_published
from clasp.report.statistics import LEVEL, resample
from clasp.results.schema import Cell, Number, is_signature, read

RESULTS = Path(__file__).resolve().parents[3] / "results"
"""The project's own results folder, which holds the targets."""
ACCEPTED = "lmms-eval"
"""Protocol of the published rows that are targets."""
TINY = "tiny"


class Target(NamedTuple):
    """A score to be reached: in percent, MME's in points, as its source has it."""

    benchmark: str
    value: float
    source: str


@dataclass(frozen=True)
class Checked:
    """A stored cell against its target."""

    target: Target
    cell: Cell
    score: float  # ours, in the target's unit
    error: float  # standard error of a score of that many questions, in the same unit
    limit: float  # how many standard errors may lie between the two

    @property
    def distance(self) -> float:
        """Ours less the target's, in standard errors."""
        difference = self.score - self.target.value
        if math.isclose(difference, 0.0, abs_tol=1e-9):
            return 0.0
        return difference / self.error if self.error else math.copysign(math.inf, difference)

    @property
    def within(self) -> bool:
        return abs(self.distance) <= self.limit


@dataclass(frozen=True)
class Check:
    """All targets of a backbone: those that stored cells were compared with, and those that have no cell."""

    backbone: str
    checked: tuple[Checked, ...]
    missing: tuple[str, ...]

    @property
    def status(self) -> int:
        """0: every target has a cell and all are within; 1: some are outside; 2: some or all have no cell."""
        if not all(one.within for one in self.checked):
            return 1
        return 2 if self.missing else 0


class _Training(TypedDict):
    """What the shipped backbone's training measured: benchmark -> what was shown -> accuracy in percent."""

    accuracy: dict[str, dict[str, Number]]


def targets(backbone: str, folder: Path = RESULTS) -> list[Target]:
    """The targets of a backbone.

    Args:
        folder: results folder that holds them.

    Raises:
        ReportError: there are none.
    """
    if backbone == TINY:
        path = folder / "reference" / "tiny_training.json"
        accuracy = read_stored(read, _Training, path, None, "restore the project's own file")["accuracy"]
        # the averages that it lists beside the benchmarks have no unpruned entry
        source = f"{path.name}, all test questions"
        return [Target(name, found["all"], source) for name, found in accuracy.items() if "all" in found]
    columns = ("backbone", "method", "benchmark", "value", "source", "protocol")
    known = read_published(folder / "published" / "accuracy.csv", *columns)
    lines = [line for line in known if (line["method"], line["protocol"]) == (UNPRUNED, ACCEPTED)]
    found = [
        Target(line["benchmark"], float(line["value"]), f"{line['source']}, {line['protocol']}")
        for line in lines
        if line["backbone"] == backbone
    ]
    if not found:
        others = ", ".join([TINY, *dict.fromkeys(line["backbone"] for line in lines)])
        raise ReportError(f"no unpruned scores are known to check backbone {backbone!r} against; known: {others}")
    return found


def check(backbone: str, results: Path, folder: Path = RESULTS) -> Check:
    """Compares the cells below ``results`` with the targets.

    Of several unpruned cells of a benchmark the one with most questions counts, then the latest. A whole test set is
    the target's own questions, so ours must lie within one standard error. A subset is a sample of them: it must lie
    within the interval of 95 % for all such benchmarks together (Bonferroni).

    Raises:
        ReportError: no targets, or a cell or its answers cannot be used.
    """
    wanted, cells = targets(backbone, folder), _unpruned(backbone, results)
    there = [(target, cells[target.benchmark]) for target in wanted if target.benchmark in cells]
    missing = tuple(target.benchmark for target in wanted if target.benchmark not in cells)
    partial = [cell["questions"] < int(cell["available"] or 0) for _, cell in there]
    sample = NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * sum(partial))) if any(partial) else 1.0
    checked = []
    for (target, cell), subset in zip(there, partial, strict=True):
        stored = float(cell["score"] or 0.0)
        factor = percent_factor([stored])
        error = _error(cell, (stored * factor / 100, target.value / 100), factor, results)
        checked.append(Checked(target, cell, stored * factor, error, sample if subset else 1.0))
    return Check(backbone, tuple(checked), missing)


def _unpruned(backbone: str, results: Path) -> dict[str, Cell]:
    """Benchmark -> the scored unpruned cell that counts."""
    paths = sorted(path for path in (results / "cells").glob("*.json") if is_signature(path.stem))
    cells = [read_cell(results, path.stem) for path in paths]
    own = [cell for cell in cells if (cell["backbone"], cell["method"]) == (backbone, UNPRUNED)]
    scored = [cell for cell in own if cell["score"] is not None]
    scored.sort(key=lambda cell: (cell["questions"], cell["provenance"].get("finished", "")))
    return {cell["benchmark"]: cell for cell in scored}


def _error(cell: Cell, shares: Sequence[float], factor: float, results: Path) -> float:
    """Standard error of a score over the cell's questions, in percent or points.

    Args:
        shares: the score and its target as fractions.
        factor: from the cell's scale to that of the target.
    """
    if cell["metric"] not in MAKERS:
        # the larger of the two, for a perfect score has no spread of its own
        return 100 * max(math.sqrt(share * (1 - share) / cell["questions"]) for share in shares)
    made = sampled(cell["metric"], read_answers(results, cell["signature"], cell["questions"]), cell["score"])
    if made is None:
        raise ReportError(
            f"the {cell['metric']} of {cell['benchmark']!r} in cell {cell['signature']} does not follow from its "
            "answers, so it has no standard error; run the benchmark again"
        )
    return factor * float(resample(cell["benchmark"], [made]).std(ddof=1))


def describe(found: Check) -> str:
    """One line per benchmark, then what is missing and which command makes it."""
    lines = [f"Unpruned {found.backbone}: stored scores against known ones"]
    for one in found.checked:
        target, cell, verdict = one.target, one.cell, "within" if one.within else "OUTSIDE"
        lines.append(
            f"{verdict:8}{benchmark_label(target.benchmark):16}{one.score:8.2f} against {target.value:8.2f} "
            f"({target.source}): {one.distance:+.2f} standard errors of {one.error:.2f}, limit {one.limit:.2f}, "
            f"{cell['questions']} of {cell['available']} questions, cell {cell['signature']}"
        )
    if found.missing:
        lines += [f"no unpruned cell yet: {', '.join(map(benchmark_label, found.missing))}; run", f"  {command(found)}"]
    if any(one.limit > 1 for one in found.checked):
        lines.append(
            "Subsets of the questions are samples: their limits are those of a 95 % interval for all of them together."
        )
    return "\n".join(lines)


def command(found: Check) -> str:
    """What makes the missing cells: on all questions, and on the tiny backbone on the default subset."""
    names = f"'benchmarks.names=[{','.join(found.missing)}]'"
    everything = "" if found.backbone == TINY else " limit=all"
    return f"clasp-eval run backbone={found.backbone} method=none {names}{everything}"
