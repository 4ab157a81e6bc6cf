"""The README shows what results/reference says."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from synthetic import ALL_METHODS, BUDGETS, METHODS, VISUAL, write_experiment

from clasp.report.build import build_figure, build_table
from clasp.report.cells import ReportError, load_experiment
from clasp.report.layout import METHODS as LABELS
from clasp.report.reference import main_block, methods_block, publish, renewed
from clasp.report.summary import summarize

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
SHOWN = {"tiny_main": METHODS, "tiny_methods": ALL_METHODS}
MARKERS = "".join(f"<!-- {name} table: {end} -->\n" for name in ("main", "methods", "tiny") for end in ("begin", "end"))


@pytest.fixture(scope="module")
def once_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("built")
    for name, methods in SHOWN.items():
        write_experiment(results, name, methods=methods)
        summary = summarize(load_experiment(name, results))
        build_table(summary)
        build_figure(summary)
    (results / "reference").mkdir()
    shutil.copy(REFERENCE / "tiny_training.json", results / "reference")
    return results


@pytest.fixture
def built(once_built: Path, tmp_path: Path) -> Path:
    """A results root with tables and figures of both experiments, and the tiny backbone's training record.

    A copy for each test: publishing writes into it, and tests run in any order on any worker.
    """
    return shutil.copytree(once_built, tmp_path / "built")


def rows(block: str) -> list[list[str]]:
    """Entries of a block's table, without the headings."""
    table = [line for line in block.splitlines() if line.startswith("|")]
    return [[entry.strip() for entry in line.split("|")[1:-1]] for line in table][2:]


def check_blocks(reference: Path) -> None:
    main, methods = (
        block(reference / f"{name}.csv") for name, block in (("tiny_main", main_block), ("tiny_methods", methods_block))
    )
    assert [row[0] for row in rows(main)] == [f"all {VISUAL}", *(str(b) for b in BUDGETS for _ in METHODS)]
    assert [row[0] for row in rows(methods)] == [LABELS[name] for name in ALL_METHODS]
    for table, columns in ((rows(main), 6), (rows(methods), 2 + len(BUDGETS))):
        assert {len(row) for row in table} == {columns}
        assert all(all(row) for row in table)


def test_the_readme_is_what_the_reference_results_say() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert renewed(readme, REFERENCE) == readme, "run 'make reference'"


@pytest.mark.parametrize(("experiment", "methods"), SHOWN.items())
def test_the_reference_tables_are_complete(experiment: str, methods: Sequence[str]) -> None:
    with (REFERENCE / f"{experiment}.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    expected = [("none", VISUAL)] + [(method, tokens) for tokens in BUDGETS for method in methods]
    assert [(record["method"], int(record["budget"])) for record in records] == expected
    assert all(record["normalized_average"] and record["prefill_speedup"] for record in records)
    assert "INCOMPLETE" not in (REFERENCE / f"{experiment}.md").read_text(encoding="utf-8")


def test_the_reference_blocks_are_complete() -> None:
    check_blocks(REFERENCE)


def test_publishing_copies_both_experiments_and_fills_the_readme(built: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKERS}after\n")
    written = publish(built, readme)
    names = [f"{name}.{suffix}" for name in SHOWN for suffix in ("md", "csv", "tex")]
    names += [
        f"{name}.{suffix}"
        for name in ("accuracy_vs_flops", "accuracy_vs_flops_tiny_methods")
        for suffix in ("png", "svg")
    ]
    assert sorted(path.name for path in written) == sorted([*names, "README.md"])
    assert all((built / "reference" / name).stat().st_size > 500 for name in names)
    check_blocks(built / "reference")
    text = readme.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text == renewed(text, built / "reference")
    assert all(f"| {LABELS[name]} |" in text for name in ALL_METHODS if name != "tome")


def test_the_methods_block_shows_the_numbers(built: Path) -> None:
    summary = summarize(load_experiment("tiny_methods", built))
    block = methods_block(built / "tables" / "tiny_methods.csv")
    assert block.splitlines()[0].count("tokens, % [95 %]") == 3
    assert block.splitlines()[0].endswith("| prefill speed-up at 64 |")
    shown = {row[0]: row[1:] for row in rows(block)}
    for row in summary.rows[1:]:
        entry = shown[LABELS[row.method]][BUDGETS.index(row.tokens)]
        low, high = row.average.interval
        expected = f"{100 * row.average.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        assert entry == expected + (" †" if row.method == "tome" else "")
        if row.tokens == 64:
            assert shown[LABELS[row.method]][-1] == f"{row.prefill_speedup:.2f}"
    assert "† 95 % intervals not apart: at 192 ToMe; at 128 ToMe; at 64 ToMe." in block


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    def keep(method: str, tokens: int, benchmark: str) -> bool:
        return (method, tokens, benchmark) != ("fastv", 64, "world_ocr") and (method, tokens) != ("clasp", 128)

    write_experiment(tmp_path, "tiny_methods", keep)
    build_table(summarize(load_experiment("tiny_methods", tmp_path)))
    shown = {row[0]: row[1:] for row in rows(methods_block(tmp_path / "tables" / "tiny_methods.csv"))}
    assert [bool(entry) for entry in shown["FastV"]] == [True, True, False, False]
    assert [bool(entry) for entry in shown["CLASP"]] == [True, False, True, True]


def test_publishing_needs_both_tables_and_the_markers(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run 'make tables' first"):
        publish(tmp_path, tmp_path / "README.md")
    shutil.copytree(built, tmp_path / "half")
    (tmp_path / "half" / "figures" / "accuracy_vs_flops_tiny_methods.svg").unlink()
    with pytest.raises(ReportError, match="run 'make methods' first"):
        publish(tmp_path / "half", tmp_path / "README.md")
    with pytest.raises(ReportError, match="main table: begin"):
        renewed("no markers", REFERENCE)
