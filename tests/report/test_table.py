"""The table of an experiment as Markdown, CSV and LaTeX: entries, gaps, marks, and the notes below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic import BENCHMARKS, Root, entries, latex, markdown, plan, records

from clasp.report.layout import marks
from clasp.report.summarize import COSTS
from clasp.report.table import comma_separated, escape
from clasp.report.table_rows import Summary

LATE = {"started": "2026-01-02T11:00:00+00:00", "finished": "2026-01-02T11:01:00+00:00"}


def test_gaps_are_empty_entries_and_said_below(results: Root) -> None:
    """A cell that has not been run, a metric in points whose answers have no scores, and a judge that has not come."""
    results.remove(("clasp", 64, "tiny_textvqa"))
    results.alter(*plan(benchmarks=["easy_vqa"]), score=1500.0, metric="points")
    results.alter(*plan(benchmarks=["tiny_pope"]), score=None)
    text = results.markdown()
    shown = entries(text, "| CLASP")[-1]
    assert (shown[1].strip("*"), shown[4], shown[7:]) == ("1500.0", "", [""] * 9), "points are no fraction"
    assert "INCOMPLETE: 1 of 91 planned cells" in text
    assert not re.search(r"\bnan\b", text + comma_separated(results.summary()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"score": 0.0}, "the unpruned score on tiny POPE is 0, .* ask more questions"),
        ({"score": None}, "the unpruned model has no score on tiny POPE; run its missing cells, or judge its answers"),
    ],
)
def test_a_table_without_averages_says_why(results: Root, change: dict, reason: str) -> None:
    assert "No pruned row has an average" not in results.markdown()
    results.alter(("none", 576, "tiny_pope"), **change)
    assert re.search(f"- No pruned row has an average: {reason}", results.markdown())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1.0", "3.0", "2.0"], [None, "best", "second"]),
        (["3.0", "3.0", "2.0"], ["best", "best", "second"]),
        (["3.0", "2.0", "2.0", "1.0"], ["best", "second", "second", None]),
        (["9.5", "", "10.0"], ["second", None, "best"]),
        (["3.0", ""], [None, None]),
    ],
)
def test_marks(values: list[str], expected: list[str | None]) -> None:
    assert marks(values) == expected


def test_the_caption_names_rows_that_miss_their_budget(results: Root) -> None:
    cells = [("fastv", 64, name) for name in BENCHMARKS]
    results.alter(*cells, costs={"visual_tokens": {"output_average": 70.0}})
    assert "NOT held by FastV at 64: 70.0" in results.markdown()


@pytest.mark.parametrize(("table", "columns"), [("accuracy", 1), ("efficiency", 2), ("categories", 0)])
def test_speedups_between_timing_sessions_are_marked_and_their_rows_named(
    tmp_path: Path, table: str, columns: int
) -> None:
    root = Root(tmp_path).write(table=table)
    assert "§" not in root.markdown()
    root.alter(("clasp", 64, "easy_vqa"), provenance=LATE)
    marked = [line for line in root.markdown().splitlines() if "§" in line]
    if not columns:
        assert marked == []
        return
    row, note = marked
    assert row.startswith("| CLASP")
    assert row.count(" § |") == columns
    assert note.startswith("- § speed-ups that need not compare")
    assert "more than 3 hours before or after the unpruned model's (at 64 CLASP; up to 25.0 hours)" in note
    assert r"\S{}" in latex(root.summary())


def test_rows_below_random_carry_a_dagger_and_the_caption_lists_them(results: Root) -> None:
    for method, tokens, right in (("fastv", 64, 0.3), ("visionzip", 192, 0.775)):
        for name in BENCHMARKS:
            results.put(method, tokens, name, [float(i < 120 * right) for i in range(120)])
    summary = results.summary()
    text, code = markdown(summary), latex(summary)
    assert [line[0] for line in entries(text) if set(line[0]) & set("†‡")] == ["VisionZip †", "FastV ‡"]
    assert (
        "† no significant difference by the paired test: at 192 VisionZip. ‡ significant (corrected p < 0.05): "
        "at 64 FastV." in text
    )
    assert "p<0.001" in entries(text, "| FastV")[-1][-1]
    assert r"VisionZip \textdagger{} &" in code
    assert r"FastV \textdaggerdbl{} &" in code


@pytest.mark.parametrize("reference", [None, "clasp"])
def test_any_row_can_be_the_reference_and_none_need_be(tmp_path: Path, reference: str | None) -> None:
    summary = Root(tmp_path).write(reference=reference).summary()
    compared = {row.name for row in summary.rows if row.comparison is not None}
    assert compared == ({"random", "fastv", "visionzip"} if reference else set())
    text = markdown(summary)
    assert ("less CLASP" in text) == ("Holm" in text) == (reference is not None)
    # neither tests any row against random
    assert "† not tested against random here: none." in text
    assert "less Random" not in text
    assert "no significant difference by the paired test" not in text


def test_without_random_the_caption_is_silent_about_it(tmp_path: Path) -> None:
    assert "Below random" not in Root(tmp_path).write(methods=("fastv", "clasp")).markdown()


def test_an_assumption_is_listed_once_under_all_methods_that_share_it(results: Root) -> None:
    results.alter(*plan(), provenance={"assumptions": []})
    own = {
        "fastv": ["FastV's layer scales", "k is small", "shared by both"],
        "visionzip": ["visionzip: no CLS token; something stands in", "shared by both"],
    }
    for method, assumed in own.items():
        results.alter((method, 64, "easy_vqa"), provenance={"assumptions": assumed})
    summary = results.summary()
    assert [line for line in markdown(summary).splitlines() if line.startswith("  - ")] == [
        "  - FastV: Layer scales. k is small.",
        "  - FastV, VisionZip: Shared by both.",
        "  - VisionZip: No CLS token; something stands in.",
    ]
    caption, _, after = latex(summary).partition(r"\end{table*}")
    assert "Shared by both" not in caption
    assert after.count("Shared by both.") == 1


def test_csv_holds_the_row_at_full_precision(summary: Summary) -> None:
    line, row = records(comma_separated(summary))[-1], summary.rows[-1]
    expected = {**row.costs, "p": row.comparison.p, "normalized_average_high": row.average.interval.high}
    expected |= {f"{name}_low": row.intervals[name].low for name in BENCHMARKS}
    assert set(COSTS) <= set(expected)
    assert {name: float(line[name]) for name in expected} == expected


def test_latex_is_balanced_and_escaped(results: Root) -> None:
    special, assumed = "CPU_1 50% & #2 {x} ~^ a\\b $", ["weights_a = 5%"]
    results.alter(*plan(methods=()), costs={"device": special}, provenance={"assumptions": assumed})
    text = latex(results.summary())
    code = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    begun, ended = re.findall(r"\\begin\{(\w+\*?)\}", code), re.findall(r"\\end\{(\w+\*?)\}", code)
    assert begun == ended[::-1] == ["table*", "tabular"]
    bare = re.sub(r"\\[\\&%$#_{}]|\$\\pm\$", "", code)
    assert bare.count("{") == bare.count("}")
    assert not set("$#^") & set(bare)
    assert re.findall(r"(?<!\{)%", bare) == []
    assert bare.count("{%") == 1
    assert "_" not in bare.replace(r"\label{tab:tiny_main}", "")
    rows = [line for line in code.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [15] * 14
    for part in (r"\textbf{", r"\underline{", r"Unpruned: Weights\_a = 5\%."):
        assert part in text
    assert escape(r"a_b%c&d#e$f{g}h~i^j\k") == (
        r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"
    )
