"""results/reference is a complete results root, and the README and docs/ show its numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command_line import ROOT
from synthetic import ALL_METHODS, BUDGETS, METHODS, REGISTRY, VISUAL, Root, cell, entries, records, write_cell

from clasp.methods import for_images
from clasp.report.build import build_experiment
from clasp.report.layout import method_label
from clasp.report.load import ReportError, load_experiment
from clasp.report.reference import PAGES, RECENT, main_block, methods_block, publish, recent_block, renewed
from clasp.report.table import write_table

pytestmark = pytest.mark.xdist_group("reference")  # one results root for all
REFERENCE = ROOT / "results" / "reference"
METHODS_TABLE = "table_llava15_tiny"
SHOWN = {"tiny_main": METHODS, METHODS_TABLE: ALL_METHODS}


@pytest.fixture(scope="module")
def once_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("built")
    for name, methods in SHOWN.items():
        Root(results, name).write(methods=methods)
    Root(results, "fidelity_tiny").write(methods=ALL_METHODS, figures=["fidelity"])
    ablation = Root(results, "ablation_x_tiny")
    ablation.write(methods=("random", "clasp"), figures=[], keep=lambda *key: key[1] != 64)
    for name in (*SHOWN, "fidelity_tiny", ablation.name):
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
    main, methods = Root(reference).summary(), Root(reference, METHODS_TABLE).summary()
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
        assert [entry not in ("", "–") for entry in shown[method_label(name)]] == expected, name


def test_pages_are_what_the_reference_results_say() -> None:
    pages = renewed(ROOT, REFERENCE)
    assert {str(page.relative_to(ROOT)) for page in pages} == set(PAGES.values())
    for page, text in pages.items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run 'make reference'"


@pytest.mark.parametrize("experiment", SHOWN)
def test_the_reference_tables_are_complete(experiment: str) -> None:
    tables = load_experiment(experiment, REFERENCE).tables
    lines = records(tables["csv"].read_text(encoding="utf-8"))
    planned = load_experiment(experiment, REFERENCE).planned
    assert {(line["method"], int(line["budget"])) for line in lines} == {(p.method, p.tokens) for p in planned}
    assert all(line["normalized_average"] and line["prefill_speedup"] for line in lines)
    assert "INCOMPLETE" not in tables["md"].read_text(encoding="utf-8")
    if experiment == METHODS_TABLE:
        assert {line["method"] for line in lines} == {"none", *for_images()}


def test_the_reference_blocks_are_complete() -> None:
    check_blocks(REFERENCE)


def test_the_reference_tables_follow_from_the_reference_cells(tmp_path: Path) -> None:
    """No model, no results of one's own: the committed folder alone gives the committed tables."""
    names = sorted(path.stem for path in (REFERENCE / "experiments").glob("*.json"))
    assert set(SHOWN) <= set(names)
    for name in names:
        root = Root(REFERENCE, name)
        again, committed = write_table(root.summary(), tmp_path), root.experiment().tables
        for suffix in ("md", "tex"):
            assert again[suffix].read_bytes() == committed[suffix].read_bytes(), f"{name}: run 'make reference'"
        # at full precision, where processors may differ in the last digit
        pd.testing.assert_frame_equal(pd.read_csv(again["csv"]), pd.read_csv(committed["csv"]), rtol=1e-9)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def published(built: Path, tmp_path: Path) -> tuple[Path, str]:
    """Publishes into pages that have the markers of their blocks: the reference folder, and all pages in a row."""
    texts: dict[Path, str] = {}
    for name, page in PAGES.items():
        block = f"before\n<!-- {name}: begin -->\n<!-- {name}: end -->\nafter\n"
        texts[tmp_path / page] = texts.get(tmp_path / page, "") + block
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert publish(built, tmp_path) == [built / "reference", *texts]
    return built / "reference", "".join(path.read_text() for path in texts)


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
    block = recent_block(Root(tmp_path, METHODS_TABLE).write(methods=(*methods, "fastv")).summary())
    shown = {row[0]: row[1:] for row in rows(block)}
    assert sorted(shown) == ["CLASP", "Pooling", "Random", "VScan"], "FastV is older"
    signs = {"better": "+", "no significant difference": "=", "worse": "\N{MINUS SIGN}"}
    for column, reference in enumerate(("random", "pool")):
        tested = Root(tmp_path, "again").write(methods=methods, reference=reference).rows()
        for name in ("vscan", "clasp"):
            found = [tested[name, tokens].comparison for tokens in BUDGETS]
            expected = " ".join(signs[comparison.verdict] for comparison in found)
            assert shown[method_label(name)][len(BUDGETS) + column] == expected
    assert shown["Random"][len(BUDGETS)] == shown["Pooling"][len(BUDGETS) + 1] == "", "against itself"
    missing = [REGISTRY[name].label for name in for_images() if REGISTRY[name].paper >= RECENT and name not in methods]
    assert f"Not yet in the stored results: {', '.join(missing)}." in block


def test_files_of_no_experiment_and_of_earlier_calls_do_not_stay_but_a_judges_do(built: Path, tmp_path: Path) -> None:
    known = load_experiment("tiny_main", built).frame["signature"].iloc[0]
    strange = cell("clasp", 64, "easy_vqa", [1.0], signature="e" * 24)
    for results in (built, built / "reference"):
        write_cell(results, strange, [1.0])
    for name in (known, "e" * 24):
        (built / "cells" / f"{name}.judge.json").write_text("{}")
    (built / "reference" / "tables").mkdir()
    (built / "reference" / "tables" / "tiny_methods.md").write_text("old")
    reference, _ = published(built, tmp_path)
    assert not [name for name in files(reference) if "e" * 24 in name or "tiny_methods" in name]
    assert [path.name for path in (reference / "cells").glob("*.judge.json")] == [f"{known}.judge.json"]
    assert "tiny_training.json" in files(reference)
    assert published(built, tmp_path)[0] == reference


def test_the_blocks_mark_speedups_between_timing_sessions(built: Path) -> None:
    root = Root(built, METHODS_TABLE)
    summary = root.summary()
    assert "§" not in main_block(summary) + methods_block(summary)
    late = {"started": "2026-02-01T09:00:00+00:00", "finished": "2026-02-01T10:00:00+00:00"}
    root.alter(*(("fastv", tokens, "tiny_textvqa") for tokens in (128, 64)), provenance=late)
    summary = root.summary()
    main, methods = main_block(summary), methods_block(summary)
    assert [row[:2] for row in rows(main) if row[-1].endswith(" §")] == [["128", "FastV"], ["64", "FastV"]]
    assert [row[0] for row in rows(methods) if row[-1].endswith(" §")] == ["FastV"]
    assert "(at 128 FastV; at 64 FastV; up to 743.0 hours)" in main.splitlines()[-1]
    assert "(at 64 FastV; up to 743.0 hours)" in methods.splitlines()[-1], "whose speed-up it shows"


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    def keep(method: str, tokens: int, benchmark: str) -> bool:
        return (method, tokens, benchmark) != ("fastv", 64, "tiny_textvqa") and (method, tokens) != ("clasp", 128)

    summary = Root(tmp_path, METHODS_TABLE).write(keep=keep).summary()
    shown = {row[0]: row[1:] for row in rows(methods_block(summary))}
    assert [bool(entry) for entry in shown["FastV"]] == [True, True, False, False]
    assert [bool(entry) for entry in shown["CLASP"]] == [True, False, True, True]
    lines = [row for row in rows(main_block(summary)) if row[:2] in (["128", "CLASP"], ["64", "FastV"])]
    assert [row[2:] for row in lines] == [[""] * 3] * 2


def test_publishing_needs_both_tables_every_file_and_the_markers(built: Path, tmp_path: Path) -> None:
    def refuses(message: str) -> None:
        with pytest.raises(ReportError, match=message):
            publish(built, tmp_path)

    reference, _ = published(built, tmp_path)
    for name, page in PAGES.items():
        before = (tmp_path / page).read_text()
        (tmp_path / page).write_text(before.replace(f"<!-- {name}: begin -->", ""))
        with pytest.raises(ReportError, match=rf"{page} needs the markers '<!-- {name}: begin"):
            renewed(tmp_path, reference)
        (tmp_path / page).write_text(before)
    log = reference / "tiny_training.json"
    log.write_text(json.dumps({key: value for key, value in json.loads(log.read_text()).items() if key != "accuracy"}))
    refuses(r"tiny_training.json has no scores .* run 'python scripts/score_tiny.py")
    (built / "figures" / f"accuracy_vs_flops_{METHODS_TABLE}.svg").unlink()
    refuses(r"table_llava15_tiny.svg has not been built; run 'make report'")
    (built / "experiments" / f"{METHODS_TABLE}.json").unlink()
    refuses("run 'make table-llava15' first")
    (built / "experiments" / "tiny_main.json").unlink()
    refuses("run 'make tables' first")
