"""Published rows beside ours: where each number appears, when a difference is shown, and the reason where none is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic import VISUAL, Root, entries, planned, records

from clasp.report.load import ReportError
from clasp.report.published.compare import FOLDER, PublishedRow, PublishedValue, published_rows
from clasp.report.published.prompt_protocols import FORMS
from clasp.report.published.read import read_published
from clasp.report.published.write import published_csv, published_sheet
from clasp.report.table import sheet_markdown
from clasp.report.table_rows import Summary

SCORES = {"gqa": 0.605, "pope": 0.85, "vqav2": 0.75, "textvqa": 0.45, "textvqa_ocr": 0.57, "mmvet": 0.31, "mme": 1800.0}
PAPERS = ("gqa", "mmbench", "mme", "pope", "sqa", "vqav2", "textvqa", "mmvet")
ROWS = (("none", VISUAL), ("random", 192), ("fastv", 192), ("dart", 192), ("clasp", 192))
HEADER = "backbone,budget,method,benchmark,value,source,protocol,note,origin\n"


def write(
    folder: Path, benchmarks: Sequence[str] = tuple(SCORES), backbone: str = "llava_1_5_7b", available: int = 200,
    **report: Any,
) -> Root:  # fmt: skip
    """An experiment of a few methods at 192 tokens on ``backbone``, beside LLaVA-1.5-7B's published rows."""
    root = Root(folder, "table")
    for method, tokens in ROWS:
        for benchmark in benchmarks:
            score = SCORES.get(benchmark, 0.6)
            stated = {"backbone": backbone, "available": available, "score": score}
            root.put(method, tokens, benchmark, [min(score, 1.0)] * 200, **stated)
    cells = [planned(*row, benchmark) for row in ROWS for benchmark in benchmarks]
    root.plan(cells, report={"published": "llava_1_5_7b", "figures": [], **report})
    return root


def rows_of(rows: Sequence[PublishedRow], method: str, tokens: int | None = 192) -> list[PublishedRow]:
    return [row for row in rows if (row.method, row.tokens) == (method, tokens)]


def clasps(root: Root, column: str) -> PublishedValue:
    """The one published number of CLASP at 192 tokens in a column."""
    (row,) = rows_of(published_rows(root.summary()), "clasp")
    return row.values[column]


def table(summary: Summary) -> str:
    return sheet_markdown(published_sheet(summary, published_rows(summary)))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """LLaVA-1.5-7B on all of :data:`SCORES`, to be read and not changed."""
    return write(tmp_path_factory.mktemp("usual")).summary()


@pytest.fixture(scope="module")
def rows(usual: Summary) -> list[PublishedRow]:
    return published_rows(usual)


def test_copied_and_re_run_rows_are_lines_of_their_own_with_the_difference_to_ours(rows: list[PublishedRow]) -> None:
    fastv = {row.origin: row for row in rows_of(rows, "fastv") if "gqa" in row.values}
    assert {origin: row.values["gqa"].text for origin, row in fastv.items()} == {"copied": "52.7", "re-run": "57.1"}
    assert fastv["copied"].values["gqa"].difference == pytest.approx(60.5 - 52.7)
    assert "DART" in fastv["copied"].source_text
    assert "official code" in fastv["re-run"].source_text
    (clasp,) = rows_of(rows, "clasp")
    assert (clasp.origin, clasp.source, clasp.values["gqa"].comparable) == ("own paper", "A", "same")
    assert clasp.values["gqa"].difference == pytest.approx(0.1)


def test_no_published_number_fills_an_entry_of_ours(tmp_path: Path) -> None:
    root = write(tmp_path)
    root.remove(("clasp", 192, "gqa"))
    value = clasps(root, "gqa")
    assert value.ours is value.difference is None
    text = table(root.summary())
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


@pytest.mark.parametrize(
    ("nominal", "reason"), [(192, None), (163, "the source means the nominal count, which is 163 in our row")]
)
def test_a_budget_that_is_held_by_another_count_only_is_not_compared(
    tmp_path: Path, nominal: int, reason: str | None
) -> None:
    root = write(tmp_path)
    root.alter(*(("dart", 192, name) for name in SCORES), costs={"visual_tokens": {"nominal": nominal}})
    dart = next(row for row in rows_of(published_rows(root.summary()), "dart") if row.source == "D").values["gqa"]
    assert (dart.comparable, dart.difference is None) == (("different", True) if reason else ("same", False))
    assert (reason or "") in "".join(dart.reasons)


def test_a_budget_whose_meaning_no_source_states_is_marked(usual: Summary, rows: list[PublishedRow]) -> None:
    assert {row.values["gqa"].comparable for row in rows_of(rows, "fastv") if "gqa" in row.values} == {"unsure"}
    text = table(usual)
    heads, shown = entries(text, "| method")[0], entries(text, "| FastV ")
    copied = next(line for line in shown if line[heads.index("whose run")] == "copied")
    match = re.fullmatch(r"52\.7 \(~\+7\.8 ([a-z]+)\)", copied[heads.index("GQA")])
    assert f"- {match[1]}: budget: the source does not say" in text


def test_a_subset_of_the_questions_is_not_compared(tmp_path: Path) -> None:
    value = clasps(write(tmp_path, available=201), "gqa")
    assert value.difference is None
    assert any("subset" in reason for reason in value.reasons)


@pytest.mark.parametrize("whole", [True, False])
def test_averages_compare_only_over_the_papers_benchmarks(tmp_path: Path, whole: bool) -> None:
    value = clasps(write(tmp_path, PAPERS if whole else PAPERS[:-1]), "normalized_average")
    assert value.comparable == ("unsure" if whole else "different")
    assert (value.difference == pytest.approx(1.6)) is whole


def test_on_another_backbone_nothing_compares_and_one_sentence_says_so(tmp_path: Path) -> None:
    """Each published number in the column of the benchmark that has its form, on a line that names the other model."""
    assert {*FORMS.values()} == {*PAPERS}
    summary = write(tmp_path, tuple(FORMS), "tiny").summary()
    rows = published_rows(summary)
    assert {value.difference for row in rows for value in row.values.values()} == {None}
    unpruned = max(rows_of(rows, "none", VISUAL), key=lambda row: len(row.values))
    known = {
        line["benchmark"]: line["value"]
        for line in read_published(FOLDER / "accuracy.csv")
        if (line["backbone"], line["method"]) == ("llava_1_5_7b", "none")
        and (line["source"], line["protocol"]) == (unpruned.source, unpruned.protocol)
    }
    assert {form: unpruned.values[form].text for form in FORMS} == {form: known[name] for form, name in FORMS.items()}
    assert all(unpruned.values[form].ours is not None for form in FORMS)
    text = table(summary)
    assert text.count("Nothing here compares") == 1
    for part in ("ours of tiny", "| CLASP on llava_1_5_7b ", "tiny GQA |", "| CLASP on llava_1_5_7b (128)", "60.4"):
        assert part in text
    assert not re.search(r"\(~?[+-]\d", text)


def test_budgets_and_methods_that_we_lack_stand_apart(usual: Summary, rows: list[PublishedRow]) -> None:
    rest = [row for row in rows if row.tokens is None]
    assert {("clasp", "128"), ("visionzip", "192")} <= {(row.method, row.budget) for row in rest}
    assert all(value.ours is None for row in rest for value in row.values.values())
    assert rows[-len(rest) :] == rest
    assert "| CLASP (128)" in table(usual)


def test_a_variant_under_a_name_of_its_own_has_no_published_row(tmp_path: Path) -> None:
    root = write(tmp_path, ["gqa"])
    root.put("CLASP without fusion", 192, "gqa", [0.6] * 200, method="clasp", backbone="llava_1_5_7b")
    cells = [planned("none", VISUAL, "gqa"), planned("clasp", 192, "gqa", row="CLASP without fusion")]
    root.plan(cells, report={"published": "llava_1_5_7b"})
    assert {row.tokens for row in published_rows(root.summary()) if row.method == "clasp"} == {None}


def folder_of(path: Path, *lines: str) -> Path:
    """Published numbers of one's own; each line says budget, benchmark, value, source and note of a FastV row."""
    path.mkdir()
    whole = [
        f"llava_1_5_7b,{budget},fastv,{benchmark},{value},{source},paper,{note},re-run\n"
        for budget, benchmark, value, source, note in (line.split(",") for line in lines)
    ]
    (path / "accuracy.csv").write_text(HEADER + "".join(whole))
    (path / "sources.csv").write_text("key,source\nX,somebody's paper\nY,another paper\n")
    return path


def test_shares_are_budgets_too(usual: Summary, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "published", *(f"{budget},gqa,50,X," for budget in ("33.3%", "20%", "")))
    rows = published_rows(usual, folder)
    assert [(row.budget, row.tokens) for row in rows] == [("33.3%", 192), ("20%", None), ("", None)]


def test_perception_alone_is_not_set_against_the_sum(usual: Summary, tmp_path: Path) -> None:
    (row,) = published_rows(usual, folder_of(tmp_path / "published", "192,mme,1500,X,mme_perception"))
    assert (row.values["mme"].ours, row.values["mme"].difference) == (1800.0, None)
    assert any("perception alone" in reason for reason in row.values["mme"].reasons)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["192,gqa,50,X,"] * 2, "two numbers for gqa"), (["192,gqa,50,Z,"], r"'Z' is not in sources\.csv")],
)
def test_lines_that_cannot_be_shown_are_an_error(
    usual: Summary, tmp_path: Path, lines: list[str], message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        published_rows(usual, folder_of(tmp_path / "published", *lines))


def test_an_unknown_backbone_is_an_error_and_none_is_said(tmp_path: Path, script: Any) -> None:
    with pytest.raises(ReportError, match=r"'llava_9'.*llava_1_5_7b, llava_next_7b"):
        published_rows(write(tmp_path, published="llava_9").summary())
    root = write(tmp_path, published=None)
    with pytest.raises(ReportError, match=r"report\.published"):
        published_rows(root.summary())
    status, out, _ = script("report", "experiment=table", "published=1")
    assert (status, "nothing is published beside experiment 'table'" in out) == (0, True)
    assert not list((tmp_path / "tables").glob("*_published.*"))


def test_efficiency_compares_ratios_with_a_mark_and_times_not_at_all(tmp_path: Path) -> None:
    root = write(tmp_path, ["pope"], table="efficiency")
    summary = root.summary()
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
    root.alter(("clasp", 192, "pope"), provenance=late)
    row, note = [line for line in table(root.summary()).splitlines() if "§" in line]
    assert (row.count("§"), note.count("§")) == (1, 1)
    assert "| CLASP" in row
    assert "at 192 CLASP" in note


def test_retention_on_another_benchmark_is_not_compared(tmp_path: Path) -> None:
    value = clasps(write(tmp_path, ("gqa", "pope"), table="efficiency"), "accuracy_retention_pct")
    assert (value.ours, value.difference) == (pytest.approx(100), None)


@pytest.mark.parametrize("backbone", ["llava_next_7b", "qwen2_5_vl_7b", "video_llava_7b"])
def test_every_published_backbone_can_be_shown(tmp_path: Path, backbone: str) -> None:
    summary = write(tmp_path, ["gqa"], published=backbone).summary()
    assert table(summary).count("| this project") == 5  # one a row of ours


def test_csv_has_a_line_per_published_number(usual: Summary, rows: list[PublishedRow]) -> None:
    lines = records(published_csv(usual, rows))
    assert len(lines) == sum(len(row.values) for row in rows)
    (line,) = (r for r in lines if (r["method"], r["budget"], r["column"]) == ("clasp", "192", "gqa"))
    assert (line["published"], line["source"], line["origin"]) == ("60.4", "A", "own paper")
    assert (float(line["ours"]), float(line["difference"])) == (pytest.approx(60.5), pytest.approx(0.1))
    apart = next(r for r in lines if r["column"] == "vqav2" and r["ours"])
    assert apart["difference"] == ""
    assert "test-dev" in apart["reasons"]


def test_the_command_writes_all_three_forms(tmp_path: Path, script: Any) -> None:
    write(tmp_path, ("gqa", "pope"))
    status, out, _ = script("report", "experiment=table", "published=1")
    assert (status, "beside published rows" in out) == (0, True)
    paths = {suffix: tmp_path / "tables" / f"table_published.{suffix}" for suffix in ("md", "csv", "tex")}
    assert all(path.is_file() and f"table: {path}\n" in out for path in paths.values())
    text = paths["tex"].read_text()
    heads = text[text.index(r"\toprule") :].splitlines()[1].count("&") + 1
    for part in (f"{{llll{'r' * (heads - 4)}}}", r"tab:table_published", r"60.4 {\scriptsize (+0.1)}", r"average \%"):
        assert part in text
