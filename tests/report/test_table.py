"""From cells to tables: numbers, gaps, marks, captions, LaTeX; and what a reader is told when it cannot be built."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call
from synthetic import (
    BENCHMARKS,
    METHODS,
    alter,
    cell,
    plan,
    planned,
    signature,
    summary_of,
    write_cell,
    write_experiment,
    write_plan,
)

from clasp.report.layout import marks
from clasp.report.load import ReportError, load_experiment
from clasp.report.statistics import Interval
from clasp.report.summarize import COSTS
from clasp.report.table import comma_separated, escape, latex, markdown
from clasp.report.table_rows import Average, Comparison, Summary, TableRow, standings

ROOT = Path(__file__).resolve().parents[2]


def row_of(summary: Summary, name: str, tokens: int) -> TableRow:
    return next(row for row in summary.rows if row.key == (name, tokens))


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| :")]
    return [[entry.strip() for entry in line.strip("|").split("|")] for line in lines]


def test_rows_are_unpruned_first_then_budgets_from_large_to_small(results: Path) -> None:
    keys = [(row.method, row.tokens) for row in summary_of(results).rows]
    assert keys == [("none", 576)] + [(method, tokens) for tokens in (192, 128, 64) for method in METHODS]


def test_averages_and_costs_follow_from_the_cells(results: Path) -> None:
    summary = summary_of(results)
    row, base = row_of(summary, "clasp", 64), row_of(summary, "none", 576)
    ratios = {name: row.scores[name] / base.scores[name] for name in BENCHMARKS}
    assert row.average.value == pytest.approx(sum(ratios.values()) / 7)
    assert row.average.interval.low < row.average.value < row.average.interval.high
    assert base.average.value == 1.0
    assert base.average.interval is None
    assert row.costs["kv_mib"] == pytest.approx(64 * 2**12 / 2**20)
    assert row.costs["prefill_ms"] == pytest.approx(40 * (0.2 + 0.8 / 9))
    assert row.speedups["prefill"] == pytest.approx(1 / (0.2 + 0.8 / 9))
    assert row.speedups["total"] == row.speedups["decode"] == 1.0
    assert row.costs["decode_ms_per_token"] == pytest.approx(4.0 / 2)  # the first of three tokens is the prefill's
    assert row.flops_ratio == pytest.approx(1 / (1 / 9 + 0.03))


def test_a_missing_pruned_cell_empties_its_entry_its_average_and_its_costs_only(results: Path) -> None:
    (results / "cells" / f"{signature('clasp', 64, 'tiny_textvqa')}.json").unlink()
    summary = summary_of(results)
    row = row_of(summary, "clasp", 64)
    assert row.scores["tiny_textvqa"] is None
    assert row.scores["easy_vqa"] is not None
    assert row.average.value is row.average.interval is row.speedups["prefill"] is None
    assert set(row.costs.values()) == {None}
    assert row_of(summary, "clasp", 128).average.interval is not None
    shown = next(line for line in reversed(table_rows(markdown(summary))) if line[0] == "CLASP")
    assert shown[4] == ""
    assert shown[8:] == [""] * 8
    assert "1 of 91 planned cells" in markdown(summary)


def test_without_an_unpruned_score_no_average_exists(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: (method, name) != ("none", "tiny_gqa"))
    assert all(row.average.value is None for row in summary_of(tmp_path).rows)


def test_a_benchmark_that_nobody_ran_is_still_a_column(tmp_path: Path) -> None:
    write_experiment(tmp_path, keep=lambda method, tokens, name: name != "tiny_gqa")
    summary = summary_of(tmp_path)
    assert summary.benchmarks == BENCHMARKS
    assert row_of(summary, "clasp", 64).average.value is None


def test_timing_on_another_device_is_not_compared(results: Path) -> None:
    alter(results, signature("clasp", 64, "easy_vqa"), costs={"device": "GPU: Other"})
    summary = summary_of(results)
    assert set(row_of(summary, "clasp", 64).speedups.values()) == {None}
    assert row_of(summary, "clasp", 64).flops_ratio is not None
    assert "CPU: Example 2 cores, GPU: Other" in markdown(summary)


SPEEDUPS = {"accuracy": 1, "efficiency": 2, "categories": 0}
"""Columns of measured speed-ups by kind of table."""


@pytest.mark.parametrize("table", SPEEDUPS)
def test_speedups_between_timing_sessions_are_marked_and_their_rows_named(tmp_path: Path, table: str) -> None:
    write_experiment(tmp_path, table=table, figures=[])
    text = markdown(summary_of(tmp_path))
    assert "§" not in text
    late = {"started": "2026-01-02T11:00:00+00:00", "finished": "2026-01-02T11:01:00+00:00"}
    alter(tmp_path, signature("clasp", 64, "easy_vqa"), provenance=late)
    summary = summary_of(tmp_path)
    assert row_of(summary, "clasp", 64).hours_apart == 25.0
    assert [row.key for row in summary.rows if row.apart] == [("clasp", 64)]
    marked = [line for line in markdown(summary).splitlines() if "§" in line]
    if not SPEEDUPS[table]:
        assert marked == []
        return
    row, note = marked
    assert row.startswith("| CLASP")
    assert row.count(" § |") == SPEEDUPS[table]
    assert note.startswith("- § speed-ups that need not compare")
    assert "more than 3 hours before or after the unpruned model's (at 64 CLASP; up to 25.0 hours)" in note
    assert r"\S{}" in latex(summary)


@pytest.mark.parametrize(
    ("started", "finished", "hours"),
    [
        ("2026-01-01T10:30:00+00:00", "2026-01-01T11:00:00+00:00", 0.5),
        ("2026-01-01T04:00:00+00:00", "2026-01-01T05:00:00+00:00", 4.0),
        ("2026-01-01T09:30:00+00:00", "2026-01-03T09:00:00+00:00", 0.0),
        ("2026-01-01T15:00:00+05:00", "2026-01-01T16:00:00+05:00", 0.0),
        ("2026-01-01T12:00:00", "2026-01-01T13:00:00", 2.0),
        (None, None, 0.0),
    ],
    ids=["after", "before", "overlapping", "another zone", "no zone", "not known"],
)
def test_hours_between_a_row_and_the_unpruned_model(
    results: Path, started: str | None, finished: str | None, hours: float
) -> None:
    when = {"started": started, "finished": finished} if started else None
    path = results / "cells" / f"{signature('fastv', 128, 'tiny_textvqa')}.json"
    value = json.loads(path.read_text())
    value["provenance"] = {k: v for k, v in value["provenance"].items() if k not in ("started", "finished")} | (
        when or {}
    )
    path.write_text(json.dumps(value))
    assert row_of(summary_of(results), "fastv", 128).hours_apart == hours


def test_only_cells_of_one_benchmark_are_held_against_each_other(results: Path) -> None:
    late = {"started": "2026-01-02T11:00:00+00:00", "finished": "2026-01-02T11:01:00+00:00"}
    for method, tokens, benchmark in plan():
        if benchmark == "easy_vqa":
            alter(results, signature(method, tokens, benchmark), provenance=late)
    assert not any(row.apart for row in summary_of(results).rows)


def test_a_time_that_is_none_is_told(results: Path) -> None:
    alter(results, signature("clasp", 64, "easy_vqa"), provenance={"started": "yesterday"})
    with pytest.raises(ReportError, match="cannot be used"):
        summary_of(results)


def test_a_metric_without_scores_per_question_has_no_interval(results: Path) -> None:
    for method, tokens, name in plan():
        if name == "easy_vqa":
            write_cell(results, cell(method, tokens, name, [1.0] * 9, score=1500.0, metric="points"), [None] * 9)
    row = row_of(summary_of(results), "clasp", 64)
    assert row.scores["easy_vqa"] == 1500.0
    assert row.intervals["easy_vqa"] is row.comparison is None
    assert row.intervals["tiny_textvqa"] is not None
    assert row.average.value is not None
    assert row.average.interval is None


def test_different_questions_are_not_compared(results: Path) -> None:
    scores = [1.0, 0.0, 1.0]
    write_cell(results, cell("clasp", 64, "easy_vqa", scores), scores)
    with pytest.raises(ReportError, match=r"'easy_vqa' .* different questions \(120 and 3\)"):
        summary_of(results)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1.0", "3.0", "2.0"], [None, "best", "second"]),
        (["3.0", "3.0", "2.0"], ["best", "best", "second"]),
        (["3.0", "2.0", "2.0", "1.0"], ["best", "second", "second", None]),
        (["9.5", "10.0"], ["second", "best"]),
        (["3.0", "", "2.0"], ["best", None, "second"]),
        (["3.0", ""], [None, None]),
        (["", ""], [None, None]),
    ],
)
def test_marks(values: list[str], expected: list[str | None]) -> None:
    assert marks(values) == expected


def test_marks_stay_within_a_budget(results: Path) -> None:
    rows = table_rows(markdown(summary_of(results)))
    averages = [(line[0], line[8]) for line in rows if line[8] and line[0] != "method"]
    assert sum(text.startswith("**") for _, text in averages) == 3
    assert sum(text.startswith("<u>") for _, text in averages) == 3
    assert all(method == "CLASP" for method, text in averages if text.startswith("**"))
    assert averages[0] == ("Unpruned", "100.0")


def test_the_caption_says_what_a_reader_must_know(results: Path) -> None:
    text = markdown(summary_of(results))
    for part in (
        "easy-VQA 120 of 500",
        "output average",
        "95%",
        "CPU: Example 2 cores",
        "  - CLASP: Router: nearest prototype.",
        "0123abc",
    ):
        assert part in text
    assert "NOT held" not in text


def average(value: float | None, low: float | None = None, high: float | None = None) -> Average:
    return Average(value, None if low is None or high is None else Interval(low, high))


def compared(p: float, difference: float = -0.1, reference: str = "random") -> Comparison:
    return Comparison(reference, difference, Interval(difference - 0.1, difference + 0.1), p / 10, p)


@pytest.mark.parametrize(
    ("own", "tested", "expected"),
    [
        (average(0.79), compared(0.2), "below"),
        (average(0.79), compared(0.05), "below"),  # only smaller ones are significant
        (average(0.79), compared(0.049), "significant"),
        (average(0.79), None, "below"),  # without a test nothing is significant
        (average(0.79), compared(0.01, reference="fastv"), "below"),  # another question's answer
        (average(0.7996), compared(0.01), None),  # 80.0 as shown
        (average(0.7994), compared(0.01), "significant"),  # 79.9 as shown
        (average(0.90), compared(0.01, difference=0.1), None),
        (average(None), None, None),
    ],
)
def test_standing_against_random(own: Average, tested: Comparison | None, expected: str | None) -> None:
    rows = {("none", 576): average(1.0), ("random", 64): average(0.80), ("fastv", 64): own, ("fastv", 32): own}
    found = standings(rows, dict.fromkeys(rows, tested))
    assert found == ({("fastv", 64): expected} if expected else {})


def test_standing_needs_random_and_never_marks_the_unpruned_model() -> None:
    assert standings({("fastv", 64): average(0.1)}) == {}
    assert standings({("random", 64): average(None), ("fastv", 64): average(0.1)}) == {}
    assert standings({("none", 576): average(1.0), ("random", 576): average(1.1)}) == {}


def fail(results: Path, method: str, tokens: int, right: float) -> None:
    """Cells of a method that answers only a share of the questions right."""
    for name in BENCHMARKS:
        scores = [float(i < 120 * right) for i in range(120)]
        write_cell(results, cell(method, tokens, name, scores), scores)


def test_rows_below_random_carry_a_dagger_and_the_caption_lists_them(results: Path) -> None:
    fail(results, "fastv", 64, right=0.3)
    fail(results, "visionzip", 192, right=0.775)
    text = markdown(summary_of(results))
    marked = [line[0] for line in table_rows(text) if set(line[0]) & set("†‡")]
    assert marked == ["VisionZip †", "FastV ‡"]
    assert (
        "† no significant difference by the paired test: at 192 VisionZip. ‡ significant (corrected p < 0.05): "
        "at 64 FastV." in text
    )
    assert r"VisionZip \textdagger{} &" in latex(summary_of(results))
    assert r"FastV \textdaggerdbl{} &" in latex(summary_of(results))


def test_without_random_the_caption_is_silent_about_it(tmp_path: Path) -> None:
    write_experiment(tmp_path, methods=("fastv", "clasp"))
    assert "Below random" not in markdown(summary_of(tmp_path))
    write_experiment(tmp_path, methods=("random", "clasp"))
    assert "paired test: none. ‡ significant (corrected p < 0.05): none." in markdown(summary_of(tmp_path))


def test_an_assumption_is_listed_once_under_all_methods_that_share_it(results: Path) -> None:
    own = {
        "fastv": ["FastV's layer scales", "k is small", "shared by both"],
        "visionzip": ["visionzip: no CLS token; something stands in", "shared by both"],
        "clasp": [],
    }
    for method, tokens, name in plan():
        alter(results, signature(method, tokens, name), provenance={"assumptions": own.get(method, [])})
    summary = summary_of(results)
    lines = [line for line in markdown(summary).splitlines() if line.startswith("  - ")]
    assert lines == [
        "  - FastV: Layer scales. k is small.",
        "  - FastV, VisionZip: Shared by both.",
        "  - VisionZip: No CLS token; something stands in.",
    ]
    text = latex(summary)
    caption, _, after = text.partition(r"\end{table*}")
    assert "Shared by both" not in caption
    assert after.count("Shared by both.") == 1


def test_the_caption_names_rows_that_miss_their_budget(results: Path) -> None:
    for name in BENCHMARKS:
        alter(results, signature("fastv", 64, name), costs={"visual_tokens": {"output_average": 70.0}})
    assert "NOT held by FastV at 64: 70.0" in markdown(summary_of(results))


def test_csv_holds_every_accounting_and_both_formulas_at_full_precision(results: Path) -> None:
    summary = summary_of(results)
    records = list(csv.DictReader(comma_separated(summary).splitlines()))
    record, row = records[-1], summary.rows[-1]
    assert len(records) == 13
    assert record["method"] == "clasp"
    assert record["budget"] == "64"
    for name in COSTS:
        assert float(record[name]) == row.costs[name]
    for name in BENCHMARKS:
        assert tuple(float(record[f"{name}{end}"]) for end in ("_low", "_high")) == row.intervals[name]
    compared = row.comparison
    assert record["reference"] == compared.reference == "random"
    assert float(record["difference"]) == compared.difference
    assert (float(record["difference_low"]), float(record["difference_high"])) == compared.interval
    assert (float(record["p"]), float(record["p_corrected"])) == (compared.p, compared.corrected)
    assert records[0]["p"] == records[0]["reference"] == ""
    assert float(record["total_speedup"]) == row.speedups["total"]
    assert float(record["normalized_average"]) == row.average.value
    assert float(record["normalized_average_high"]) == row.average.interval.high


def test_latex_is_balanced_and_escaped(results: Path) -> None:
    for name in BENCHMARKS:
        special, assumed = "CPU_1 50% & #2 {x} ~^ a\\b $", ["weights_a = 5%"]
        alter(results, signature("none", 576, name), costs={"device": special}, provenance={"assumptions": assumed})
    text = latex(summary_of(results))
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    begun, ended = re.findall(r"\\begin\{(\w+\*?)\}", code), re.findall(r"\\end\{(\w+\*?)\}", code)
    assert begun == ["table*", "tabular"]
    assert ended == begun[::-1]
    bare = re.sub(r"\\[\\&%$#_{}]|\$\\pm\$", "", code)
    assert bare.count("{") == bare.count("}")
    assert "$" not in bare
    assert "#" not in bare
    assert "^" not in bare
    assert re.findall(r"(?<!\{)%", bare) == []
    assert bare.count("{%") == 1
    assert re.findall(r"_", bare.replace(r"\label{tab:tiny_main}", "")) == []
    rows = [line for line in code.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 14
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {15}
    assert r"\textbf{" in text
    assert r"\underline{" in text
    assert r"Unpruned: Weights\_a = 5\%." in text


def test_escape_of_every_special_character() -> None:
    assert escape(r"a_b%c&d#e$f{g}h~i^j\k") == (
        r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    )


def test_an_experiment_that_was_not_run(results: Path) -> None:
    with pytest.raises(
        ReportError, match=r"'other' has not been run yet .*so far: tiny_main.*clasp-eval run experiment=other"
    ):
        load_experiment("other", results)
    with pytest.raises(ReportError, match="not usable"):
        load_experiment("../cells/x", results)
    write_plan(results, "planned", [planned("clasp", 7, "easy_vqa")])
    with pytest.raises(ReportError, match="none of its 1 cells"):
        load_experiment("planned", results)


def test_files_that_cannot_be_used_are_named_not_guessed(results: Path) -> None:
    sig = signature("clasp", 64, "easy_vqa")
    path, answers = results / "cells" / f"{sig}.json", results / "cells" / f"{sig}.jsonl"
    whole, lines = path.read_text(), answers.read_text()
    for broken, message in (
        (whole[:100], "not valid JSON"),
        (whole.replace('"schema": 1', '"schema": 9'), "schema is 9"),
        (whole.replace(sig, "f" * 24), "holds the signature"),
        (whole.replace('"kv_bytes"', '"kv_bites"'), r"the key 'costs\.kv_bytes' is missing"),
    ):
        path.write_text(broken)
        with pytest.raises(ReportError, match=message):
            summary_of(results)
    path.write_text(whole)
    answers.write_text("".join(lines.splitlines(keepends=True)[:-1]))
    with pytest.raises(ReportError, match="119 lines, its cell has 120"):
        summary_of(results)
    answers.unlink()
    with pytest.raises(ReportError, match="cannot be read"):
        summary_of(results)


def test_two_cells_for_one_entry_are_an_error(results: Path) -> None:
    cells = [planned("clasp", 64, "easy_vqa"), planned("clasp", 64, "easy_vqa", cell="e" * 24)]
    write_plan(results, "twice", cells)
    with pytest.raises(ReportError, match=r"several cells for row 'clasp' at 64 tokens .*grid.variants"):
        load_experiment("twice", results)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "schema is 1, this version reads 2"),
        ({"cells": ["0" * 24]}, "cannot be used"),
        ({"benchmarks": [{"metric": "accuracy"}]}, r"cannot be used .*benchmarks\[0\]\.name"),
        ({"benchmarks": [{"name": "gqa"}]}, r"cells of \['easy_vqa'\], which its list of benchmarks lacks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_experiment_files_that_cannot_be_used_are_named(results: Path, changes: dict, message: str) -> None:
    write_plan(results, "broken", [planned("clasp", 64, "easy_vqa")], **changes)
    with pytest.raises(ReportError, match=message):
        load_experiment("broken", results)


def test_two_backbones_are_not_one_table(results: Path) -> None:
    alter(results, signature("clasp", 64, "easy_vqa"), backbone="llava_1_5_7b")
    with pytest.raises(ReportError, match="mixes the backbones"):
        load_experiment("tiny_main", results)


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "scripts/report.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_script_writes_everything_without_torch(results: Path) -> None:
    started = time.perf_counter()
    done = script("experiment=tiny_main", f"results={results}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert time.perf_counter() - started < 30.0  # 2 s on a free core; the bound only catches a model being loaded
    for path in [f"tables/tiny_main.{s}" for s in ("md", "csv", "tex")] + [
        f"figures/accuracy_vs_flops_tiny_main.{s}" for s in ("png", "svg")
    ]:
        assert (results / path).stat().st_size > 500
        assert str(results / path) in done.stdout
    assert "| CLASP " in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "transformers", "lmms_eval", "wandb"})
    assert "pandas" in imported


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["experiment=nope"], 1, "experiment 'nope' has not been run yet"),
        (["experimant=tiny_main"], 2, "unknown key 'experimant': use one of experiment, "),
        ([], 2, "no experiment is named"),
    ],
)
def test_the_script_fails_with_one_sentence(
    results: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = ROOT / "scripts" / "report.py"
    assert call(monkeypatch, results, *arguments, f"results={results}", script=report) == status
    said = capsys.readouterr()
    errors = said.err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert said.out == ""
