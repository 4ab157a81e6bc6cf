"""From cells to tables: numbers, gaps, marks, captions, LaTeX; and the message where a table cannot be built."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import ROOT
from synthetic import (
    BENCHMARKS,
    alter,
    cell,
    entries,
    latex,
    markdown,
    plan,
    planned,
    rows_of,
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
from clasp.report.table import comma_separated, escape
from clasp.report.table_rows import Average, Comparison, Summary

LATE = {"started": "2026-01-02T11:00:00+00:00", "finished": "2026-01-02T11:01:00+00:00"}


def test_averages_and_costs_follow_from_the_cells(summary: Summary) -> None:
    rows = rows_of(summary)
    row, base = rows["clasp", 64], rows["none", 576]
    ratios = {name: row.scores[name] / base.scores[name] for name in BENCHMARKS}
    assert row.average.value == pytest.approx(sum(ratios.values()) / 7)
    assert row.average.interval.low < row.average.value < row.average.interval.high
    assert base.average == Average(1.0, None)
    assert row.costs["kv_mib"] == pytest.approx(64 * 2**12 / 2**20)
    assert row.costs["prefill_ms"] == pytest.approx(40 * (0.2 + 0.8 / 9))
    assert row.speedups == {"prefill": pytest.approx(1 / (0.2 + 0.8 / 9)), "decode": 1.0, "total": 1.0}
    assert row.costs["decode_ms_per_token"] == pytest.approx(4.0 / 2)  # the first of three tokens is the prefill's
    assert row.flops_ratio == pytest.approx(1 / (1 / 9 + 0.03))


def test_a_missing_pruned_cell_empties_its_entry_its_average_and_its_costs_only(results: Path) -> None:
    (results / "cells" / f"{signature('clasp', 64, 'tiny_textvqa')}.json").unlink()
    summary = summary_of(results)
    row = rows_of(summary)["clasp", 64]
    assert row.scores["tiny_textvqa"] is None
    assert row.scores["easy_vqa"] is not None
    assert row.average.value is row.average.interval is row.speedups["prefill"] is None
    assert set(row.costs.values()) == {None}
    assert rows_of(summary)["clasp", 128].average.interval is not None
    shown = entries(markdown(summary), "| CLASP")[-1]
    assert shown[4] == ""
    assert shown[8:] == [""] * 8
    assert "1 of 91 planned cells" in markdown(summary)


@pytest.mark.parametrize("of_method", ["none", None], ids=["unpruned cell", "benchmark"])
def test_a_benchmark_without_cells_keeps_its_column_and_leaves_no_average(
    tmp_path: Path, of_method: str | None
) -> None:
    write_experiment(tmp_path, keep=lambda method, _, name: name != "tiny_gqa" or of_method not in (None, method))
    summary = summary_of(tmp_path)
    assert summary.benchmarks == BENCHMARKS
    assert all(row.average.value is None for row in summary.rows)


def test_timing_on_another_device_is_not_compared(results: Path) -> None:
    alter(results, signature("clasp", 64, "easy_vqa"), costs={"device": "GPU: Other"})
    row = rows_of(summary_of(results))["clasp", 64]
    assert set(row.speedups.values()) == {None}
    assert row.flops_ratio is not None
    assert "CPU: Example 2 cores, GPU: Other" in markdown(summary_of(results))


@pytest.mark.parametrize(("table", "columns"), [("accuracy", 1), ("efficiency", 2), ("categories", 0)])
def test_speedups_between_timing_sessions_are_marked_and_their_rows_named(
    tmp_path: Path, table: str, columns: int
) -> None:
    write_experiment(tmp_path, table=table, figures=[])
    assert "§" not in markdown(summary_of(tmp_path))
    alter(tmp_path, signature("clasp", 64, "easy_vqa"), provenance=LATE)
    summary = summary_of(tmp_path)
    assert rows_of(summary)["clasp", 64].hours_apart == 25.0
    assert [row.key for row in summary.rows if row.timed_apart] == [("clasp", 64)]
    marked = [line for line in markdown(summary).splitlines() if "§" in line]
    if not columns:
        assert marked == []
        return
    row, note = marked
    assert row.startswith("| CLASP")
    assert row.count(" § |") == columns
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
        ("", "", 0.0),
    ],
    ids=["after", "before", "overlapping", "another zone", "no zone", "not known"],
)
def test_hours_between_a_row_and_the_unpruned_model(results: Path, started: str, finished: str, hours: float) -> None:
    alter(results, signature("fastv", 128, "tiny_textvqa"), provenance={"started": started, "finished": finished})
    assert rows_of(summary_of(results))["fastv", 128].hours_apart == hours


def test_times_are_compared_between_cells_of_the_same_benchmark_only(results: Path) -> None:
    for method, tokens, benchmark in plan():
        if benchmark == "easy_vqa":
            alter(results, signature(method, tokens, benchmark), provenance=LATE)
    assert not any(row.timed_apart for row in summary_of(results).rows)


def test_a_metric_without_scores_per_question_has_no_interval(results: Path) -> None:
    for method, tokens, name in plan():
        if name == "easy_vqa":
            write_cell(results, cell(method, tokens, name, [1.0] * 9, score=1500.0, metric="points"), [None] * 9)
    summary = summary_of(results)
    row = rows_of(summary)["clasp", 64]
    assert row.scores["easy_vqa"] == 1500.0
    assert entries(markdown(summary), "| CLASP")[-1][1].strip("*") == "1500.0"  # and is no fraction
    assert row.intervals["easy_vqa"] is row.comparison is row.average.interval is None
    assert row.intervals["tiny_textvqa"] is not None
    assert row.average.value is not None


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


def test_marks_stay_within_a_budget(summary: Summary) -> None:
    averages = [(line[0], line[8]) for line in entries(markdown(summary)) if line[8] and line[0] != "method"]
    assert sum(text.startswith("**") for _, text in averages) == 3
    assert sum(text.startswith("<u>") for _, text in averages) == 3
    assert all(method == "CLASP" for method, text in averages if text.startswith("**"))
    assert averages[0] == ("Unpruned", "100.0")


@pytest.mark.parametrize(
    "part",
    [
        *("easy-VQA 120 of 500", "output average", "95%", "CPU: Example 2 cores", "0123abc"),
        "  - CLASP: Router: nearest prototype.",
    ],
)
def test_the_caption_says_what_a_reader_must_know(summary: Summary, part: str) -> None:
    assert part in markdown(summary)
    assert "NOT held" not in markdown(summary)


def compared(p: float, difference: float = -0.1, reference: str = "random") -> Comparison:
    return Comparison(reference, difference, Interval(difference - 0.1, difference + 0.1), p / 10, p)


def standings(*rows: tuple[str, int, float | None, Comparison | None]) -> dict[tuple[str, int], str]:
    """Of rows that are named as their methods: (name, tokens, average, comparison)."""
    made = [
        SimpleNamespace(name=name, method=name, tokens=tokens, key=(name, tokens), average=Average(value, None),
                        comparison=comparison)
        for name, tokens, value, comparison in rows
    ]  # fmt: skip
    return dict(Summary(None, tuple(made)).standings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "tested", "expected"),
    [
        (0.79, compared(0.2), "below"),
        (0.79, compared(0.05), "below"),  # only smaller ones are significant
        (0.79, compared(0.049), "significant"),
        (0.79, None, "below"),  # without a test nothing is significant
        (0.79, compared(0.01, reference="fastv"), "below"),  # another question's answer
        (0.7996, compared(0.01), None),  # 80.0 as shown
        (0.7994, compared(0.01), "significant"),  # 79.9 as shown
        (0.90, compared(0.01, difference=0.1), None),
        (None, None, None),
    ],
)
def test_standing_against_random(own: float | None, tested: Comparison | None, expected: str | None) -> None:
    others = ("none", 576, 1.0, None), ("random", 64, 0.80, None), ("fastv", 32, own, tested)
    assert standings(*others, ("fastv", 64, own, tested)) == ({("fastv", 64): expected} if expected else {})


def test_standing_needs_random_and_never_marks_the_unpruned_model() -> None:
    assert standings(("fastv", 64, 0.1, None)) == {}
    assert standings(("random", 64, None, None), ("fastv", 64, 0.1, None)) == {}
    assert standings(("none", 576, 1.0, None), ("random", 576, 1.1, None)) == {}


def test_rows_below_random_carry_a_dagger_and_the_caption_lists_them(results: Path) -> None:
    for method, tokens, right in (("fastv", 64, 0.3), ("visionzip", 192, 0.775)):
        for name in BENCHMARKS:
            scores = [float(i < 120 * right) for i in range(120)]
            write_cell(results, cell(method, tokens, name, scores), scores)
    text = markdown(summary_of(results))
    assert [line[0] for line in entries(text) if set(line[0]) & set("†‡")] == ["VisionZip †", "FastV ‡"]
    assert (
        "† no significant difference by the paired test: at 192 VisionZip. ‡ significant (corrected p < 0.05): "
        "at 64 FastV." in text
    )
    assert r"VisionZip \textdagger{} &" in latex(summary_of(results))
    assert r"FastV \textdaggerdbl{} &" in latex(summary_of(results))


def test_without_random_the_caption_is_silent_about_it(tmp_path: Path, summary: Summary) -> None:
    write_experiment(tmp_path, methods=("fastv", "clasp"))
    assert "Below random" not in markdown(summary_of(tmp_path))
    assert "paired test: none. ‡ significant (corrected p < 0.05): none." in markdown(summary)


def test_an_assumption_is_listed_once_under_all_methods_that_share_it(results: Path) -> None:
    own = {
        "fastv": ["FastV's layer scales", "k is small", "shared by both"],
        "visionzip": ["visionzip: no CLS token; something stands in", "shared by both"],
    }
    for method, tokens, name in plan():
        alter(results, signature(method, tokens, name), provenance={"assumptions": own.get(method, [])})
    summary = summary_of(results)
    assert [line for line in markdown(summary).splitlines() if line.startswith("  - ")] == [
        "  - FastV: Layer scales. k is small.",
        "  - FastV, VisionZip: Shared by both.",
        "  - VisionZip: No CLS token; something stands in.",
    ]
    caption, _, after = latex(summary).partition(r"\end{table*}")
    assert "Shared by both" not in caption
    assert after.count("Shared by both.") == 1


def test_the_caption_names_rows_that_miss_their_budget(results: Path) -> None:
    for name in BENCHMARKS:
        alter(results, signature("fastv", 64, name), costs={"visual_tokens": {"output_average": 70.0}})
    assert "NOT held by FastV at 64: 70.0" in markdown(summary_of(results))


def test_csv_holds_every_token_count_and_both_formulas_at_full_precision(summary: Summary) -> None:
    records = list(csv.DictReader(comma_separated(summary).splitlines()))
    record, row = records[-1], summary.rows[-1]
    assert len(records) == 13
    assert (record["method"], record["budget"], record["reference"]) == ("clasp", "64", "random")
    compared, average = row.comparison, row.average
    expected = {
        **row.costs,
        **{f"{name}_low": row.intervals[name].low for name in BENCHMARKS},
        **{f"{name}_high": row.intervals[name].high for name in BENCHMARKS},
        "difference": compared.difference,
        "difference_low": compared.interval.low,
        "difference_high": compared.interval.high,
        "p": compared.p,
        "p_corrected": compared.corrected,
        "total_speedup": row.speedups["total"],
        "normalized_average": average.value,
        "normalized_average_high": average.interval.high,
    }
    assert {name: float(record[name]) for name in expected} == expected
    assert set(COSTS) <= set(expected)
    assert records[0]["p"] == records[0]["reference"] == ""


def test_latex_is_balanced_and_escaped(results: Path) -> None:
    for name in BENCHMARKS:
        special, assumed = "CPU_1 50% & #2 {x} ~^ a\\b $", ["weights_a = 5%"]
        alter(results, signature("none", 576, name), costs={"device": special}, provenance={"assumptions": assumed})
    text = latex(summary_of(results))
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    begun, ended = re.findall(r"\\begin\{(\w+\*?)\}", code), re.findall(r"\\end\{(\w+\*?)\}", code)
    assert begun == ended[::-1] == ["table*", "tabular"]
    bare = re.sub(r"\\[\\&%$#_{}]|\$\\pm\$", "", code)
    assert bare.count("{") == bare.count("}")
    assert not set("$#^") & set(bare)
    assert re.findall(r"(?<!\{)%", bare) == []
    assert bare.count("{%") == 1
    assert re.findall(r"_", bare.replace(r"\label{tab:tiny_main}", "")) == []
    rows = [line for line in code.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 14
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {15}
    for part in (r"\textbf{", r"\underline{", r"Unpruned: Weights\_a = 5\%."):
        assert part in text


def test_escape_of_every_special_character() -> None:
    assert escape(r"a_b%c&d#e$f{g}h~i^j\k") == (
        r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other", r"'other' has not been run yet .*so far: planned, tiny_main.*clasp-eval run experiment=other"),
        ("../cells/x", "not usable"),
        ("planned", "none of its 1 cells"),
    ],
)
def test_an_experiment_that_was_not_run(results: Path, name: str, message: str) -> None:
    write_plan(results, "planned", [planned("clasp", 7, "easy_vqa")])
    with pytest.raises(ReportError, match=message):
        load_experiment(name, results)


SIGNATURE = signature("clasp", 64, "easy_vqa")


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        ("json", '"schema": 1', "", "not valid JSON"),
        ("json", '"schema": 1', '"schema": 9', "schema is 9"),
        ("json", SIGNATURE, "f" * 24, "holds the signature"),
        ("json", '"kv_bytes"', '"kv_bites"', r"the key 'costs\.kv_bytes' is missing"),
        ("json", '"gated"', '"gates"', r"cannot be used \('gated'\)"),
        ("json", "2026-01-01T09:00:00+00:00", "yesterday", "cannot be used .*yesterday"),
        ("json", '"backbone": "tiny"', '"backbone": "llava_1_5_7b"', "mixes the backbones"),
        ("jsonl", '{"question_id": "easy_vqa-0"', None, "119 lines, its cell has 120"),
        ("jsonl", "", None, "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_named_not_guessed(
    results: Path, suffix: str, old: str, new: str | None, message: str
) -> None:
    """``old`` is replaced by ``new``; without one, the line that begins with it goes, or the file."""
    path = results / "cells" / f"{SIGNATURE}.{suffix}"
    text = path.read_text()
    if new is None and not old:
        path.unlink()
    elif new is None:
        path.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith(old)))
    else:
        path.write_text(text.replace(old, new))
    with pytest.raises(ReportError, match=message):
        summary_of(results)


ONE = planned("clasp", 64, "easy_vqa")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 1}, "schema is 1, this version reads 2"),
        ({"cells": ["0" * 24]}, "cannot be used"),
        ({"cells": [ONE, {**ONE, "signature": "e" * 24}]}, r"several cells for row 'clasp' at 64 .*grid.variants"),
        ({"benchmarks": [{"metric": "accuracy"}]}, r"cannot be used .*benchmarks\[0\]\.name"),
        ({"benchmarks": [{"name": "gqa"}]}, r"cells of \['easy_vqa'\], which its list of benchmarks lacks"),
    ],
)
def test_experiment_files_that_cannot_be_used_are_named(results: Path, changes: dict, message: str) -> None:
    write_plan(results, "broken", [ONE], **changes)
    with pytest.raises(ReportError, match=message):
        load_experiment("broken", results)


def test_the_script_writes_everything_without_torch(results: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "scripts/report.py", "experiment=tiny_main", f"results={results}"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    written = [f"tables/tiny_main.{suffix}" for suffix in ("md", "csv", "tex")]
    for path in [*written, *(f"figures/accuracy_vs_flops_tiny_main.{suffix}" for suffix in ("png", "svg"))]:
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
        (["experiment=tiny_main", "published=yes"], 2, "published='yes' is neither 1 nor 0; say published=1, or leave"),
        (["experiment=tiny_main", "wandb=yes"], 2, "wandb='yes' is unknown; use one of off, offline, online"),
    ],
)
def test_the_script_fails_with_one_sentence(
    results: Path, script: Any, arguments: list[str], status: int, message: str
) -> None:
    found, out, err = script("report", *arguments)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert err.startswith(f"error: {message}")
