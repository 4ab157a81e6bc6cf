"""Published rows beside ours: where each number appears, when a difference is shown, and the reason where none is."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import VISUAL, alter, cell, entries, planned, signature, summary_of, write_cell, write_plan

from clasp.report.load import ReportError
from clasp.report.published.compare import FOLDER, PublishedRow, published_rows
from clasp.report.published.prompt_protocols import FORMS
from clasp.report.published.write import published_csv, published_sheet
from clasp.report.table import sheet_latex, sheet_markdown
from clasp.report.table_rows import Summary

NAME = "table"
SCORES = {"gqa": 0.605, "pope": 0.85, "vqav2": 0.75, "textvqa": 0.45, "textvqa_ocr": 0.57, "mmvet": 0.31, "mme": 1800.0}
HEADER = "backbone,budget,method,benchmark,value,source,protocol,note,origin\n"


def write(
    results: Path,
    *,
    backbone: str = "llava_1_5_7b",
    benchmarks: Sequence[str] = tuple(SCORES),
    missing: Sequence[tuple[str, str]] = (),
    nominal: float = 1.0,
    available: int = 200,
    **report: Any,
) -> Summary:
    """An experiment of a few methods at 192 tokens; DART's nominal count is ``nominal`` times its budget."""
    keys = [
        (method, tokens, benchmark)
        for method, tokens in (("none", VISUAL), ("random", 192), ("fastv", 192), ("dart", 192), ("clasp", 192))
        for benchmark in benchmarks
    ]
    for method, tokens, benchmark in keys:
        value = SCORES.get(benchmark, 0.6)
        scores = [min(value, 1.0)] * 200
        one = cell(method, tokens, benchmark, scores, backbone=backbone, available=available)
        one["score"] = value
        if method == "dart":
            one["costs"]["visual_tokens"]["nominal"] *= nominal
        if (method, benchmark) not in missing:
            write_cell(results, one, scores)
    spec = {"published": "llava_1_5_7b", "figures": [], **report}
    write_plan(results, NAME, [planned(*key) for key in keys], report=spec)
    return summary_of(results, NAME)


def rows_of(rows: Sequence[PublishedRow], method: str, tokens: int | None = 192) -> list[PublishedRow]:
    return [row for row in rows if (row.method, row.tokens) == (method, tokens)]


def folder_of(path: Path, *lines: str) -> Path:
    path.mkdir()
    (path / "accuracy.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    (path / "sources.csv").write_text("key,source\nX,somebody's paper\nY,another paper\n")
    return path


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """LLaVA-1.5-7B on all of :data:`SCORES`, to be read and not changed."""
    return write(tmp_path_factory.mktemp("usual"))


@pytest.fixture(scope="module")
def rows(usual: Summary) -> list[PublishedRow]:
    return published_rows(usual)


def table(summary: Summary) -> str:
    return sheet_markdown(published_sheet(summary, published_rows(summary)))


def test_copied_and_re_run_rows_are_lines_of_their_own_with_the_difference_to_ours(rows: list[PublishedRow]) -> None:
    fastv = {row.origin: row for row in rows_of(rows, "fastv") if "gqa" in row.values}
    assert {origin: row.values["gqa"].text for origin, row in fastv.items()} == {"copied": "52.7", "re-run": "57.1"}
    assert fastv["copied"].values["gqa"].difference == pytest.approx(60.5 - 52.7)
    assert "DART" in fastv["copied"].source_text
    assert "official code" in fastv["re-run"].source_text
    (clasp,) = rows_of(rows, "clasp")
    assert (clasp.origin, clasp.source) == ("own paper", "A")
    assert clasp.values["gqa"].difference == pytest.approx(0.1)
    assert clasp.values["gqa"].comparable == "same"


def test_no_published_number_fills_an_entry_of_ours(tmp_path: Path) -> None:
    summary = write(tmp_path, missing=[("clasp", "gqa"), ("fastv", "gqa")])
    rows = published_rows(summary)
    for row in (*rows_of(rows, "clasp"), *rows_of(rows, "fastv")):
        if "gqa" in row.values:
            assert row.values["gqa"].ours is row.values["gqa"].difference is None
    text = table(summary)
    (heads,) = entries(text, "| method")
    own, published = (dict(zip(heads, line, strict=True)) for line in entries(text, "| CLASP ")[:2])
    assert (own["source"], own["GQA"], own["average %"], own["POPE"]) == ("this project", "", "", "85.0")
    assert (published["source"], published["GQA"]) == ("A", "60.4")


def test_protocols_that_differ_have_no_difference_but_a_reason(rows: list[PublishedRow]) -> None:
    copied = next(row for row in rows_of(rows, "fastv") if row.origin == "copied")
    for benchmark in ("textvqa", "vqav2", "mmvet"):
        value = copied.values[benchmark]
        assert (value.comparable, value.difference) == ("different", None)
        assert value.ours is not None
        assert value.reasons
    # with OCR tokens in both prompts they do compare, as far as FastV's budget lets them
    assert copied.values["textvqa_ocr"].difference == pytest.approx(57.0 - 52.5)
    # points are shown as they are
    assert copied.values["mme"].difference == pytest.approx(1800 - 1612)
    unpruned = {row.source: row for row in rows_of(rows, "none", VISUAL)}
    assert unpruned["U"].values["pope"].comparable == "same"  # it states F1
    assert unpruned["N"].values["pope"].comparable == "unsure"


def test_perception_alone_is_not_set_against_the_sum(usual: Summary, tmp_path: Path) -> None:
    line = "llava_1_5_7b,192,fastv,mme,1500,X,paper,mme_perception,re-run"
    (row,) = published_rows(usual, folder_of(tmp_path / "published", line))
    assert (row.values["mme"].ours, row.values["mme"].difference) == (1800.0, None)
    assert any("perception alone" in reason for reason in row.values["mme"].reasons)


@pytest.mark.parametrize(("nominal", "comparable"), [(1.0, "same"), (0.85, "different")])
def test_a_budget_that_is_held_by_another_count_only_is_not_compared(
    tmp_path: Path, nominal: float, comparable: str
) -> None:
    rows = published_rows(write(tmp_path, nominal=nominal))
    dart = next(row for row in rows_of(rows, "dart") if row.source == "D")
    assert dart.values["gqa"].comparable == comparable
    assert (dart.values["gqa"].difference is None) == (comparable == "different")
    if comparable == "different":
        assert any("nominal count, which is 163" in reason for reason in dart.values["gqa"].reasons)


def test_a_budget_whose_meaning_no_source_states_is_marked(usual: Summary, rows: list[PublishedRow]) -> None:
    assert {row.values["gqa"].comparable for row in rows_of(rows, "fastv") if "gqa" in row.values} == {"unsure"}
    text = table(usual)
    heads, shown = entries(text, "| method")[0], entries(text, "| FastV ")
    copied = next(line for line in shown if line[heads.index("whose run")] == "copied")
    match = re.fullmatch(r"52\.7 \(~\+7\.8 ([a-z]+)\)", copied[heads.index("GQA")])
    assert match is not None
    assert f"- {match[1]}: budget: the source does not say" in text


def test_a_subset_of_the_questions_is_not_compared(tmp_path: Path) -> None:
    rows = published_rows(write(tmp_path, available=201))
    (clasp,) = rows_of(rows, "clasp")
    assert clasp.values["gqa"].difference is None
    assert any("subset" in reason for reason in clasp.values["gqa"].reasons)


@pytest.mark.parametrize("whole", [True, False])
def test_averages_compare_only_over_the_papers_benchmarks(tmp_path: Path, whole: bool) -> None:
    names = ("gqa", "mmbench", "mme", "pope", "sqa", "vqav2", "textvqa", "mmvet")
    rows = published_rows(write(tmp_path, benchmarks=names if whole else names[:-1]))
    (clasp,) = rows_of(rows, "clasp")
    assert clasp.values["normalized_average"].comparable == ("unsure" if whole else "different")
    assert (clasp.values["normalized_average"].difference == pytest.approx(1.6)) is whole


def test_on_another_backbone_nothing_compares_and_one_sentence_says_so(tmp_path: Path) -> None:
    summary = write(tmp_path, backbone="tiny", benchmarks=("easy_vqa", "gqa"))
    rows = published_rows(summary)
    values = [value for row in rows for value in row.values.values()]
    assert values
    assert any(value.ours is not None for value in values)
    assert all(value.difference is None for value in values)
    text = table(summary)
    assert text.count("Nothing here compares") == 1
    assert "ours of tiny" in text
    assert "60.4" in text
    assert not re.search(r"\(~?[+-]\d", text)


def test_published_columns_stand_beside_the_forms_of_the_small_world(tmp_path: Path) -> None:
    """Each published number in the column of the benchmark that has its form, on a line that names the other model."""
    forms = tuple(FORMS)
    assert {*FORMS.values()} == {"gqa", "mmbench", "mme", "pope", "sqa", "vqav2", "textvqa", "mmvet"}
    summary = write(tmp_path, backbone="tiny", benchmarks=forms)
    rows = published_rows(summary)
    unpruned = max(rows_of(rows, "none", VISUAL), key=lambda row: len(row.values))
    with (FOLDER / "accuracy.csv").open(encoding="utf-8", newline="") as file:
        known = {
            line["benchmark"]: line["value"]
            for line in csv.DictReader(file)
            if (line["backbone"], line["method"]) == ("llava_1_5_7b", "none")
            and line["source"] == unpruned.source
            and line["protocol"] == unpruned.protocol
        }
    assert {name: value.text for name, value in unpruned.values.items() if name in forms} == {
        form: known[name] for form, name in FORMS.items() if name in known
    }
    assert len(forms) == sum(name in forms for name in unpruned.values)
    assert all(unpruned.values[name].ours is not None for name in forms)
    assert all(value.difference is None for value in unpruned.values.values())
    text = table(summary)
    for part in ("| CLASP on llava_1_5_7b ", "tiny GQA |", "| CLASP on llava_1_5_7b (128)"):
        assert part in text


def test_budgets_and_methods_that_we_lack_stand_apart(usual: Summary, rows: list[PublishedRow]) -> None:
    rest = [row for row in rows if row.tokens is None]
    assert {("clasp", "128"), ("visionzip", "192")} <= {(row.method, row.budget) for row in rest}
    assert all(value.ours is None for row in rest for value in row.values.values())
    assert rows[-len(rest) :] == rest
    assert "| CLASP (128)" in table(usual)


def test_shares_are_budgets_too(usual: Summary, tmp_path: Path) -> None:
    lines = [f"llava_1_5_7b,{budget},fastv,gqa,50,X,paper,,re-run" for budget in ("33.3%", "20%", "")]
    rows = published_rows(usual, folder_of(tmp_path / "published", *lines))
    assert [(row.budget, row.tokens) for row in rows] == [("33.3%", 192), ("20%", None), ("", None)]


def test_a_variant_under_a_name_of_its_own_has_no_published_row(tmp_path: Path) -> None:
    write(tmp_path, benchmarks=("gqa",))
    scores = np.full(200, 0.6).tolist()
    variant = planned("clasp", 192, "gqa", row="CLASP without fusion")
    write_cell(
        tmp_path, cell("clasp", 192, "gqa", scores, backbone="llava_1_5_7b", signature=variant["signature"]), scores
    )
    cells = [planned("none", VISUAL, "gqa"), variant]
    write_plan(tmp_path, NAME, cells, report={"published": "llava_1_5_7b"})
    rows = published_rows(summary_of(tmp_path, NAME))
    assert {row.tokens for row in rows if row.method == "clasp"} == {None}


def test_an_unknown_backbone_is_an_error_and_none_is_said(tmp_path: Path, script: Any) -> None:
    with pytest.raises(ReportError, match=r"'llava_9'.*llava_1_5_7b, llava_next_7b"):
        published_rows(write(tmp_path, published="llava_9"))
    summary = write(tmp_path, published=None)
    with pytest.raises(ReportError, match=r"report\.published"):
        published_rows(summary)
    status, out, _ = script("report", f"experiment={NAME}", "published=1")
    assert (status, f"nothing is published beside experiment '{NAME}'" in out) == (0, True)
    assert not list((tmp_path / "tables").glob("*_published.*"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["llava_1_5_7b,192,fastv,gqa,50,X,paper,,re-run"] * 2, "two numbers for gqa"),
        (["llava_1_5_7b,192,fastv,gqa,50,Z,paper,,re-run"], r"'Z' is not in sources\.csv"),
    ],
)
def test_lines_that_cannot_be_shown_are_an_error(
    usual: Summary, tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        published_rows(usual, folder_of(tmp_path / "published", *lines))


def test_efficiency_compares_ratios_with_a_mark_and_times_not_at_all(tmp_path: Path) -> None:
    summary = write(tmp_path, benchmarks=("pope",), table="efficiency")
    rows = published_rows(summary)
    (clasp,) = rows_of(rows, "clasp")
    assert clasp.values["time_speedup"].difference == pytest.approx(1.0 - 1.5)
    assert clasp.values["time_speedup"].comparable == "unsure"
    assert clasp.values["accuracy_retention_pct"].difference == pytest.approx(100 - 99.6)
    unpruned = next(row for row in rows_of(rows, "none", VISUAL) if row.source == "S (A100)")
    assert unpruned.protocol == "A100"
    assert unpruned.values["latency_ms"].ours == pytest.approx(60.0)
    assert unpruned.values["latency_ms"].difference is unpruned.values["tflops"].difference is None
    text = table(summary)
    assert "57.82 (" in text
    assert "other hardware" in text
    assert "§" not in text
    late = {"started": "2026-01-02T09:00:00+00:00", "finished": "2026-01-02T10:00:00+00:00"}
    alter(tmp_path, signature("clasp", 192, "pope"), provenance=late)
    lines = [line for line in table(summary_of(tmp_path, NAME)).splitlines() if "§" in line]
    assert [line.count("§") for line in lines] == [1, 1]
    assert "| CLASP" in lines[0]
    assert "at 192 CLASP" in lines[1]


def test_retention_on_another_benchmark_is_not_compared(tmp_path: Path) -> None:
    rows = published_rows(write(tmp_path, benchmarks=("gqa", "pope"), table="efficiency"))
    (clasp,) = rows_of(rows, "clasp")
    assert clasp.values["accuracy_retention_pct"].ours == pytest.approx(100)
    assert clasp.values["accuracy_retention_pct"].difference is None


@pytest.mark.parametrize("backbone", ["llava_next_7b", "qwen2_5_vl_7b", "video_llava_7b"])
def test_every_published_backbone_can_be_shown(tmp_path: Path, backbone: str) -> None:
    summary = write(tmp_path, benchmarks=("gqa",), published=backbone)
    assert table(summary).count("| this project") == 5  # one a row of ours


def test_csv_has_a_line_per_published_number(usual: Summary, rows: list[PublishedRow]) -> None:
    records = list(csv.DictReader(io.StringIO(published_csv(usual, rows))))
    assert len(records) == sum(len(row.values) for row in rows)
    (record,) = (r for r in records if (r["method"], r["budget"], r["column"]) == ("clasp", "192", "gqa"))
    assert (record["published"], record["source"], record["origin"]) == ("60.4", "A", "own paper")
    assert float(record["ours"]) == pytest.approx(60.5)
    assert float(record["difference"]) == pytest.approx(0.1)
    apart = next(r for r in records if r["column"] == "vqav2" and r["ours"])
    assert apart["difference"] == ""
    assert "test-dev" in apart["reasons"]


def test_latex_aligns_words_left_and_escapes_them(usual: Summary, rows: list[PublishedRow]) -> None:
    text = sheet_latex(published_sheet(usual, rows))
    heads = text[text.index(r"\toprule") :].splitlines()[1].count("&") + 1
    assert rf"\begin{{tabular}}{{llll{'r' * (heads - 4)}}}" in text
    assert r"\label{tab:table_published}" in text
    assert r"60.4 {\scriptsize (+0.1)}" in text
    assert r"average \%" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if " & " in line} == {heads - 1}


def test_the_command_writes_all_three_forms(tmp_path: Path, script: Any) -> None:
    write(tmp_path, benchmarks=("gqa", "pope"))
    status, out, _ = script("report", f"experiment={NAME}", "published=1")
    assert (status, "beside published rows" in out) == (0, True)
    for suffix in ("md", "csv", "tex"):
        path = tmp_path / "tables" / f"{NAME}_published.{suffix}"
        assert path.is_file()
        assert f"table: {path}\n" in out
