"""results/reference is a complete results root, and the README and docs/ show its numbers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic import (
    ALL_METHODS,
    BUDGETS,
    METHODS,
    REGISTRY,
    VISUAL,
    alter,
    cell,
    entries,
    rows_of,
    signature,
    summary_of,
    write_cell,
    write_experiment,
)

from clasp.methods import for_images
from clasp.report.build import build_experiment
from clasp.report.caption import below_random
from clasp.report.layout import DAGGERS, method_label
from clasp.report.load import ReportError, load_experiment
from clasp.report.reference import (
    FIDELITY,
    PAGES,
    RECENT,
    UNREACHABLE,
    main_block,
    methods_block,
    publish,
    recent_block,
    renewed,
)
from clasp.report.table import write_table

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("reference")  # one results root for all
REFERENCE = ROOT / "results" / "reference"
METHODS_TABLE = "table_llava15_tiny"
SHOWN = {"tiny_main": METHODS, METHODS_TABLE: ALL_METHODS}


@pytest.fixture(scope="module")
def once_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("built")
    for name, methods in SHOWN.items():
        write_experiment(results, name, methods=methods)
    write_experiment(results, FIDELITY, methods=ALL_METHODS, figures=["fidelity"])
    write_experiment(
        results, "ablation_x_tiny", methods=("random", "clasp"), figures=[], keep=lambda *key: key[1] != 64
    )
    for name in (*SHOWN, FIDELITY, "ablation_x_tiny"):
        build_experiment(name, results)
    (results / "reference").mkdir()
    shutil.copy(REFERENCE / "tiny_training.json", results / "reference")
    return results


@pytest.fixture
def built(once_built: Path, tmp_path: Path) -> Path:
    """A results root with tables and figures of all experiments, and the tiny backbone's training record.

    A copy for each test: publishing writes into it, and tests run in any order on any worker.
    """
    return shutil.copytree(once_built, tmp_path / "built")


def rows(block: str) -> list[list[str]]:
    """Entries of a block's table, without the headings."""
    return entries(block)[1:]


def check_blocks(reference: Path) -> None:
    """Every row of the experiments stands in the blocks, in their order, with all entries that it can have."""
    main, methods = summary_of(reference), summary_of(reference, METHODS_TABLE)
    assert [row[0] for row in rows(main_block(main))] == [
        f"all {VISUAL}" if row.method == "none" else str(row.tokens) for row in main.rows
    ]
    assert all(all(row) and len(row) == 5 for row in rows(main_block(main)))
    known = {row.key: row for row in methods.pruned}
    names = list(dict.fromkeys(name for name, _ in known))
    shown = {row[0]: row[1:] for row in rows(methods_block(methods))}
    assert set(shown) == set(map(method_label, names))
    for name in names:
        expected = [
            (name, tokens) in known and known[name, tokens].average.value is not None
            for tokens in (*BUDGETS, min(BUDGETS))
        ]
        assert [entry not in ("", UNREACHABLE) for entry in shown[method_label(name)]] == expected, name


def test_pages_are_what_the_reference_results_say() -> None:
    pages = renewed(ROOT, REFERENCE)
    assert {str(page.relative_to(ROOT)) for page in pages} == set(PAGES.values())
    for page, text in pages.items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run 'make reference'"


@pytest.mark.parametrize("experiment", SHOWN)
def test_the_reference_tables_are_complete(experiment: str) -> None:
    with (REFERENCE / "tables" / f"{experiment}.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    planned = load_experiment(experiment, REFERENCE).planned
    assert {(record["method"], int(record["budget"])) for record in records} == {(p.method, p.tokens) for p in planned}
    assert all(record["normalized_average"] and record["prefill_speedup"] for record in records)
    assert "INCOMPLETE" not in (REFERENCE / "tables" / f"{experiment}.md").read_text(encoding="utf-8")
    if experiment == METHODS_TABLE:
        assert {record["method"] for record in records} == {"none", *for_images()}


def test_the_reference_blocks_are_complete() -> None:
    check_blocks(REFERENCE)


def test_the_reference_tables_follow_from_the_reference_cells(tmp_path: Path) -> None:
    """No model, no results of one's own: the committed folder alone gives the committed tables."""
    names = sorted(path.stem for path in (REFERENCE / "experiments").glob("*.json"))
    assert set(SHOWN) <= set(names)
    for name in names:
        again = write_table(summary_of(REFERENCE, name), tmp_path)
        committed = {suffix: REFERENCE / "tables" / f"{name}.{suffix}" for suffix in again}
        for suffix in ("md", "tex"):
            assert again[suffix].read_bytes() == committed[suffix].read_bytes(), f"{name}: run 'make reference'"
        # at full precision, where processors may differ in the last digit
        pd.testing.assert_frame_equal(pd.read_csv(again["csv"]), pd.read_csv(committed["csv"]), rtol=1e-9)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def write_pages(root: Path) -> list[Path]:
    """Pages with the markers of their blocks."""
    pages = [root / page for page in dict.fromkeys(PAGES.values())]
    for page in pages:
        page.parent.mkdir(exist_ok=True)
        names = [name for name, where in PAGES.items() if root / where == page]
        page.write_text("".join(f"before\n<!-- {name}: begin -->\n<!-- {name}: end -->\nafter\n" for name in names))
    return pages


def published(built: Path, tmp_path: Path) -> tuple[Path, str]:
    """The reference folder, and all pages, one after the other."""
    pages = write_pages(tmp_path)
    assert publish(built, tmp_path) == [built / "reference", *pages]
    return built / "reference", "".join(page.read_text() for page in pages)


def test_publishing_copies_every_experiment_and_fills_the_pages(built: Path, tmp_path: Path) -> None:
    before = files(built)
    reference, text = published(built, tmp_path)
    copied = files(reference)
    training = {"tiny_training.json": before.pop("reference/tiny_training.json")}
    assert copied == before | training
    for name in SHOWN:
        assert all(len(copied[f"tables/{name}.{suffix}"]) > 500 for suffix in ("md", "csv", "tex"))
        assert all(len(copied[f"figures/accuracy_vs_flops_{name}.{suffix}"]) > 500 for suffix in ("png", "svg"))
    check_blocks(reference)
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert text == "".join(renewed(tmp_path, reference).values())
    assert all(f"| {method_label(name)} |" in text for name in ALL_METHODS if name != "tome")


def test_recent_methods_stand_beside_the_baselines_with_tests_against_each(tmp_path: Path) -> None:
    methods = ("random", "pool", "vscan", "clasp")
    write_experiment(tmp_path, METHODS_TABLE, methods=(*methods, "fastv"))
    summary = summary_of(tmp_path, METHODS_TABLE)
    block = recent_block(summary)
    shown = {row[0]: row[1:] for row in rows(block)}
    assert sorted(shown) == ["CLASP", "Pooling", "Random", "VScan"], "FastV is older"
    signs = {"better": "+", "no significant difference": "=", "worse": "\N{MINUS SIGN}"}
    for column, reference in enumerate(("random", "pool")):
        write_experiment(tmp_path, "again", methods=methods, reference=reference)
        tested = summary_of(tmp_path, "again")
        for name in ("vscan", "clasp"):
            found = [rows_of(tested)[name, tokens].comparison for tokens in BUDGETS]
            expected = " ".join(signs[comparison.verdict] for comparison in found)
            assert shown[method_label(name)][len(BUDGETS) + column] == expected
    assert shown["Random"][len(BUDGETS)] == shown["Pooling"][len(BUDGETS) + 1] == "", "against itself"
    missing = [REGISTRY[name].label for name in for_images() if REGISTRY[name].paper >= RECENT and name not in methods]
    assert f"Not yet in the stored results: {', '.join(missing)}." in block


def test_a_judges_scores_are_kept_with_their_cell(built: Path, tmp_path: Path) -> None:
    known = load_experiment("tiny_main", built).frame["signature"].iloc[0]
    for name in (known, "f" * 24):  # the second of no experiment
        (built / "cells" / f"{name}.judge.json").write_text("{}")
    reference, _ = published(built, tmp_path)
    assert [path.name for path in (reference / "cells").glob("*.judge.json")] == [f"{known}.judge.json"]


def test_publishing_removes_files_of_earlier_calls_and_of_no_experiment(built: Path, tmp_path: Path) -> None:
    old = cell("clasp", 64, "easy_vqa", [1.0], signature="e" * 24)
    write_cell(built, old, [1.0])  # of no experiment
    write_cell(built / "reference", old, [1.0])
    (built / "reference" / "tables").mkdir()
    (built / "reference" / "tables" / "tiny_methods.md").write_text("old")
    reference, _ = published(built, tmp_path)
    assert not [name for name in files(reference) if "e" * 24 in name or "tiny_methods" in name]
    assert "tiny_training.json" in files(reference)
    assert published(built, tmp_path)[0] == reference


def test_the_methods_block_shows_the_numbers(built: Path) -> None:
    summary = summary_of(built, "table_llava15_tiny")
    block = methods_block(summary)
    assert block.splitlines()[0].count("tokens, % [95 %]") == 3
    assert block.splitlines()[0].endswith("| prefill speed-up at 64 |")
    shown = {row[0]: row[1:] for row in rows(block)}
    standings = summary.standings
    for row in summary.rows[1:]:
        entry = shown[method_label(row.method)][BUDGETS.index(row.tokens)]
        low, high = row.average.interval
        expected = f"{100 * row.average.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        # ToMe alone is below random here
        assert entry == expected + (f" {DAGGERS[standings[row.key]]}" if row.key in standings else "")
        if row.tokens == 64:
            assert shown[method_label(row.method)][-1] == f"{row.speedups['prefill']:.2f}"
    assert below_random(summary) in block


def test_the_blocks_mark_speedups_between_timing_sessions(built: Path) -> None:
    summary = summary_of(built, METHODS_TABLE)
    assert "§" not in main_block(summary) + methods_block(summary)
    for tokens in (128, 64):
        alter(
            built,
            signature("fastv", tokens, "tiny_textvqa"),
            provenance={"started": "2026-02-01T09:00:00+00:00", "finished": "2026-02-01T10:00:00+00:00"},
        )
    summary = summary_of(built, METHODS_TABLE)
    main, methods = main_block(summary), methods_block(summary)
    assert [row[:2] for row in rows(main) if row[-1].endswith(" §")] == [["128", "FastV"], ["64", "FastV"]]
    assert [row[0] for row in rows(methods) if row[-1].endswith(" §")] == ["FastV"]
    assert "(at 128 FastV; at 64 FastV; up to 743.0 hours)" in main.splitlines()[-1]
    assert "(at 64 FastV; up to 743.0 hours)" in methods.splitlines()[-1], "whose speed-up it shows"


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    def keep(method: str, tokens: int, benchmark: str) -> bool:
        return (method, tokens, benchmark) != ("fastv", 64, "tiny_textvqa") and (method, tokens) != ("clasp", 128)

    write_experiment(tmp_path, "table_llava15_tiny", keep)
    summary = summary_of(tmp_path, METHODS_TABLE)
    shown = {row[0]: row[1:] for row in rows(methods_block(summary))}
    assert [bool(entry) for entry in shown["FastV"]] == [True, True, False, False]
    assert [bool(entry) for entry in shown["CLASP"]] == [True, False, True, True]
    lines = [row for row in rows(main_block(summary)) if row[:2] in (["128", "CLASP"], ["64", "FastV"])]
    assert [row[2:] for row in lines] == [[""] * 3] * 2


def test_publishing_needs_both_tables_every_file_and_the_markers(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run 'make tables' first"):
        publish(tmp_path, tmp_path)
    shutil.copytree(built, tmp_path / "one")
    (tmp_path / "one" / "experiments" / "table_llava15_tiny.json").unlink()
    with pytest.raises(ReportError, match="run 'make table-llava15' first"):
        publish(tmp_path / "one", tmp_path)
    shutil.copytree(built, tmp_path / "half")
    (tmp_path / "half" / "figures" / "accuracy_vs_flops_table_llava15_tiny.svg").unlink()
    with pytest.raises(ReportError, match=r"table_llava15_tiny.svg has not been built; run 'make report'"):
        publish(tmp_path / "half", tmp_path)
    shutil.copytree(built, tmp_path / "unscored")
    log = tmp_path / "unscored" / "reference" / "tiny_training.json"
    log.write_text(json.dumps({key: value for key, value in json.loads(log.read_text()).items() if key != "accuracy"}))
    with pytest.raises(ReportError, match=r"tiny_training.json has no scores .* run 'python scripts/score_tiny.py"):
        publish(tmp_path / "unscored", tmp_path)
    reference, _ = published(built, tmp_path)
    for name, page in PAGES.items():
        before = (tmp_path / page).read_text()
        (tmp_path / page).write_text(before.replace(f"<!-- {name}: begin -->", ""))
        with pytest.raises(ReportError, match=rf"{page} needs the markers '<!-- {name}: begin"):
            renewed(tmp_path, reference)
        (tmp_path / page).write_text(before)
