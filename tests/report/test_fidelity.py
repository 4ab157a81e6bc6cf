"""Agreement with published results: rank correlations by definition, the source of published rows, methods held out."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from synthetic import METHODS, Root

from clasp.report.fidelity import LOOKED_AT, agreement, as_csv, measure, published_results, spearman, write
from clasp.report.published.compare import FOLDER
from clasp.report.reference import fidelity_block

PUBLISHED = FOLDER / "accuracy.csv"


def test_spearman_is_the_correlation_of_ranks() -> None:
    """By 1 - 6 sum d^2 / (n^3 - n) without ties; ties share a rank; a flat side has none."""
    rng = np.random.default_rng(0)
    one, other = rng.permuted(np.tile(np.arange(7.0), (2, 50, 1)), axis=2)
    wanted = 1 - 6 * ((one - other) ** 2).sum(1) / (7**3 - 7)
    assert spearman(one, np.exp(other)) == pytest.approx(wanted)
    assert spearman(np.array([[1.0, 1, 2]]), np.array([[1.0, 1, 2]]))[0] == pytest.approx(1.0)
    assert np.isnan(spearman(np.ones((1, 4)), np.arange(4.0)[None]))[0]


def test_intervals_are_of_what_is_drawn() -> None:
    """Without noise the interval over questions is a point, that over methods is not; noise widens the first."""
    theirs = np.linspace(0.7, 0.95, 12)
    calm = agreement("pooled", "all", theirs, np.tile(theirs, (300, 1)), theirs)
    assert (calm.spearman, calm.kendall, calm.questions) == (pytest.approx(1), pytest.approx(1), pytest.approx((1, 1)))
    ours = theirs + np.random.default_rng(2).normal(0, 0.08, 12)
    wild = agreement("pooled", "all", ours, ours + np.random.default_rng(3).normal(0, 0.05, (300, 12)), theirs)
    assert wild.questions.high - wild.questions.low > 0.1
    assert wild.methods.low < wild.spearman <= wild.methods.high
    signs = [np.sign(ours[a] - ours[b]) * np.sign(theirs[a] - theirs[b]) for a, b in combinations(range(12), 2)]
    assert wild.kendall == pytest.approx(np.mean(signs))
    assert calm.apart == pytest.approx(0)
    assert wild.apart == pytest.approx(sum(100 * abs(a - b) for a, b in zip(ours, theirs, strict=True)) / 12)


def test_published_averages_come_from_one_source_each() -> None:
    found = published_results(PUBLISHED)
    fastv = found["fastv", 64]
    assert (fastv.source, fastv.origin) == ("E", "re-run")  # before the copied row that is 4 points off
    assert fastv.average == pytest.approx(np.mean(list(fastv.ratios.values())))
    assert found["clasp", 64].average == pytest.approx(0.947)
    assert not found["clasp", 64].ratios
    assert all(0.5 < one.average < 1.05 for one in found.values())
    assert {"scope", "vscan", "dart"} <= {method for method, _ in found}


def test_an_experiment_is_measured_and_written(tmp_path: Path) -> None:
    root = Root(tmp_path).write(methods=(*METHODS, "divprune", "dart", "pdrop"))
    found, rows = measure(root.experiment(), PUBLISHED), root.rows()
    for point in found.points:
        assert point.average == pytest.approx(rows[point.method, point.tokens].average.value)
    assert {point.method for point in found.points} == {"fastv", "visionzip", "clasp", "divprune", "dart", "pdrop"}
    assert {p.method for p in found.points if p.group == "looked at"} == set(LOOKED_AT)
    pooled = next(one for one in found.agreements if (one.over, one.group) == ("pooled", "all"))
    assert pooled.points == len(found.points)
    assert {one.group for one in found.agreements} == {"all", "looked at", "held out"}
    assert len(as_csv(found).splitlines()) == len(found.agreements) + 1
    assert all(path.exists() for path in write(found, tmp_path))
    assert "| FastV " in (tmp_path / "tables" / "tiny_main_agreement.md").read_text()
    block = fidelity_block(tmp_path / "tables" / "tiny_main_agreement.csv").splitlines()
    assert block[0] == "| methods | all budgets | 192 tokens | 128 tokens | 64 tokens |"
    assert block[2].startswith(f"| all | {pooled.spearman:.2f} [")
    assert block[2].count(f"{pooled.apart:.1f} apart; n = {len(found.points)} |") == 1
