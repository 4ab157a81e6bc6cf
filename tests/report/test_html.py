"""The HTML page: what it shows, that hostile text stays text, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, executable
from command_line import ROOT
from synthetic import (
    BENCHMARKS,
    answers_of,
    cell,
    plan,
    planned,
    retention,
    routers,
    signature,
    write_answers,
    write_cell,
    write_experiment,
    write_plan,
    write_retention,
)

from clasp.report.build import build_everything, build_experiment
from clasp.report.html.escape import shortened, visible
from clasp.report.html.examples import verdict
from clasp.report.html.page import images
from clasp.report.load import ReportError

pytestmark = pytest.mark.xdist_group("html")  # one page for all

# half a surrogate pair, a control, a direction override, and what would end a script, an attribute or a comment
MARKUP = (
    "</script x><!--<script></script><script>window.hacked=1</script>"
    '<img src=https://x.invalid/a onerror="window.hacked=2">\'&amp;-->'
)
HOSTILE = f"{MARKUP}\x00\x1b\u202e\ud800"
HOSTILE_ROW = f"{MARKUP}\x07"
VOID = {"meta", "link", "img", "input", "br"}


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of each ``<td>`` and ``<th>``."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.cells: list[tuple[dict[str, str], str]] = []
        self.rows: list[tuple[dict[str, str], list[int]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((attributes, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append(len(self.cells))
            self.cells.append((attributes, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            attributes, text = self.cells[-1]
            self.cells[-1] = attributes, text + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def lines(self) -> list[list[str]]:
        """The texts of each row's cells."""
        return [[self.cells[at][1] for at in members] for _, members in self.rows]


def own(row: str, tokens: int, benchmark: str) -> str:
    """Signature of a hostile cell, which shares none with the other experiments."""
    return signature(f"hostile {row}", tokens, benchmark)


def write_hostile(results: Path) -> None:
    """An experiment whose title, row, questions and answers are attacks; one of its cells is missing."""
    rows = [(method, tokens, name, method) for method, tokens, name in plan(("random", "clasp")) if tokens != 128]
    rows += [("clasp", 64, name, HOSTILE_ROW) for name in BENCHMARKS]
    for method, tokens, name, row in rows:
        scores = [1.0, 0.0, 0.0 if method == "random" else 1.0, 1.0]
        value = cell(method, tokens, name, scores, signature=own(row, tokens, name), backbone="hostile")
        value["provenance"]["command"] = f"run.py note={MARKUP}"
        value["provenance"]["assumptions"] = [f"{method}: {MARKUP}"]
        write_cell(results, value, scores)
        hostile = {"prompt": HOSTILE, "answer": [HOSTILE], "prediction": HOSTILE}
        write_answers(results, value["signature"], [line | hostile for line in answers_of(results, value["signature"])])
    (results / "cells" / f"{own('random', 64, 'tiny_textvqa')}.json").unlink()
    cells = [
        {**planned(method, tokens, name, row), "signature": own(row, tokens, name)}
        for method, tokens, name, row in rows
    ]
    report = {"title": f"Hostile {MARKUP}", "reference": None}
    write_plan(results, "hostile", cells, report=report, command=f"run.py {HOSTILE_ROW}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root with three experiments, one of them hostile, one an ablation, and the page built from them."""
    results = tmp_path_factory.mktemp("html")
    write_hostile(results)
    write_experiment(results, "ablation_parts", questions=40, title="Ablation c", figures=[])
    write_experiment(results, "tiny_main", questions=40)
    (results / "router.json").write_text(json.dumps(routers(categories=["ocr", MARKUP])))
    maps = retention()["maps"]
    write_retention(results, retention(name="pictures", maps=[maps[0] | {"prediction": "<i>blue</i>", "right": False}]))
    build_everything(results)
    return results


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text: str) -> Parsed:
    return Parsed(text)


def test_nothing_points_outside_the_page(parsed: Parsed) -> None:
    addresses = [element[name] for _, element in parsed.elements for name in ("src", "href") if name in element]
    assert len(addresses) > 5
    assert [one for one in addresses if not one.startswith(("#", "data:"))] == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {one[1:] for one in addresses if one.startswith("#")} <= set(ids)


def test_policy_allows_this_style_and_this_script_and_nothing_else(text: str, parsed: Parsed) -> None:
    policy = parsed.all("meta")[1]["content"].split("; ")
    assert policy[0] == "default-src 'none'"
    for name, start in (("style", "<style>"), ("script", "<script>")):
        inline = text.rpartition(start)[2].partition(f"</{name}>")[0]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert not [one for _, one in parsed.elements if "style" in one]


def test_hostile_text_stays_text(text: str, parsed: Parsed) -> None:
    assert parsed.open == []
    assert [element.get("id") for element in parsed.all("script")] == ["provenance", None]
    assert not [name for _, element in parsed.elements for name in element if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", text)
    shown = [content for _, content in parsed.cells if MARKUP in content]
    assert f"{MARKUP}[U+0000][U+001B][U+202E][U+D800]" in shown
    assert f"{MARKUP}[U+0007]" in shown
    assert f"Hostile {MARKUP}" in shown


def test_script_never_parses_markup() -> None:
    text = (ROOT / "clasp" / "report" / "html" / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|DOMParser", text)


def test_every_number_names_its_cells(text: str, parsed: Parsed) -> None:
    stored = json.loads(re.search(r'id="provenance">(.*?)</script>', text)[1])  # type: ignore[index]
    pool, cells = stored["pool"], stored["cells"]
    facts = [dict(zip(stored["fields"], (pool[at] for at in one), strict=True)) for one in cells]
    planned_cells = {signature(*key) for key in plan()}
    assert planned_cells <= {one["cell"] for one in facts}
    assert len({one["cell"] for one in facts}) == len(facts)  # stored once, though two experiments share them
    rows = [row for row in parsed.rows if "data-c" in row[0]]
    line, members = next(
        row for row in rows if parsed.cells[row[1][0]][1] == "VisionZip" and "128" in parsed.cells[row[1][1]][1]
    )
    assert [facts[int(at)]["cell"] for at in line["data-c"].split()] == [
        signature("visionzip", 128, name) for name in BENCHMARKS
    ]
    number, content = parsed.cells[members[2 + BENCHMARKS.index("tiny_textvqa")]]
    fact = facts[int(number["data-c"])]
    assert fact["cell"] == signature("visionzip", 128, "tiny_textvqa")
    assert fact["questions"] == "40 of 500"
    assert fact["code"] == "commit 0123abc"
    assert fact["device"] == "CPU: Example 2 cores, batch size 8"
    assert f"{100 * float(fact['score as stored'].split()[0]):.1f}" == content.split()[0]
    low, high = (float(part) for part in re.findall(r"\d\.\d+|\b[01]\b", number["data-note"])[:2])
    assert low < float(fact["score as stored"].split()[0]) < high
    average, _ = parsed.cells[members[2 + len(BENCHMARKS)]]
    assert "data-c" not in average  # rests on all cells of the row
    compared, _ = parsed.cells[members[-1]]
    assert compared["data-note"].startswith("Paired with the row Random")


def test_experiments_stand_in_order_and_what_is_missing_is_said_first(text: str, parsed: Parsed) -> None:
    assert [one["id"] for one in parsed.all("article") if "id" in one] == [
        "e-tiny_main",
        "e-hostile",
        "e-ablation_parts",
    ]
    assert text.index("hostile: 1 of 42 planned cells have not been run.") < text.index('<section id="tables"')
    empty = [attributes for attributes, content in parsed.cells if attributes.get("data-c") == ""]
    assert [one["data-note"][:8] for one in empty] == ["Not run:"]


def test_figures_are_inside_with_words_for_what_they_show(parsed: Parsed) -> None:
    images = parsed.all("img")
    assert all(one["src"].startswith("data:image/") for one in images)
    assert ["FLOPs" in one["alt"] for one in images] == [True, True, False]
    assert "pivots and completion tokens in two colours" in images[2]["alt"]
    kept = [
        f"layer {layer}: {count}"
        for layer, count in ((2, "4 (2 pivots, 2"), (4, "2 (1 pivots, 1"), (6, "1 (0 pivots, 1"))
    ]
    words = "; ".join(f"{stage} completion)" for stage in kept)
    assert ["What costs $5 and $6? (red)", "CLASP, 4", "<i>blue</i> wrong", words] in parsed.lines


def test_examples_show_first_where_the_rows_differ(parsed: Parsed) -> None:
    verdicts = [
        [attributes["class"] for attributes, _ in (parsed.cells[at] for at in members[2:])]
        for _, members in parsed.rows
        if len(members) > 2 and parsed.cells[members[-1]][0].get("class") in ("right", "wrong")
    ]
    tables = [verdicts[at : at + 4] for at in range(0, len(verdicts), 4)]
    assert len(tables) == 2 * len(BENCHMARKS)  # of two backbones
    assert all(any(len(set(row)) > 1 for row in table) for table in tables[:7])
    # the hostile ones, four questions in all: the third differs, and one of the three rows has no cell of tiny_textvqa
    right, wrong = ["right"] * 3, ["wrong"] * 3
    assert tables[7] == [right, wrong, ["right", "right", "wrong"], right]
    assert [len(row) for row in tables[7 + BENCHMARKS.index("tiny_textvqa")]] == [2] * 4


def test_routers_stand_with_the_best_one_first_and_its_confusions(parsed: Parsed) -> None:
    lines = parsed.lines
    first = lines.index(["good", "9 of 10", "90.0 [59.6, 98.2]", "3.46"])
    assert lines[first + 1][:2] == ["coin", "6 of 10"]
    assert ["ocr", "2", ""] in lines
    assert [MARKUP, "1", "7"] in lines


@pytest.mark.parametrize(
    ("score", "word"),
    [(1.0, "right"), (0.0, "wrong"), (0.3, "partly right"), (None, "not scored"), (True, "right"), ("1", "not scored")],
)
def test_verdict(score: Any, word: str) -> None:
    assert verdict(score) == word


def test_long_answers_are_cut_and_text_of_all_languages_stays() -> None:
    assert shortened("a" * 700) == "a" * 600 + " … (100 more characters)"
    assert shortened("a" * 600) == "a" * 600
    plain = "Größe 大きさ שלום\n\tx≤1 👍"
    assert visible(plain) == plain


def test_page_is_small_and_the_same_for_the_same_results(root: Path, text: str) -> None:
    assert len(text) < 400_000
    build_everything(root)
    assert (root / "report.html").read_text(encoding="utf-8") == text


def test_large_figures_go_in_as_png(tmp_path: Path) -> None:
    write_experiment(tmp_path, questions=20)
    summary = build_experiment("tiny_main", tmp_path).summary
    (small,) = images(summary)
    svg = next((tmp_path / "figures").glob("*.svg"))
    svg.write_text(svg.read_text() + "<!--" + "x" * 200_000 + "-->")
    (large,) = images(summary)
    assert (small.source[:18], large.source[:14]) == ("data:image/svg+xml", "data:image/png")


def test_published_rows_stand_apart_and_tell_their_source(tmp_path: Path) -> None:
    write_experiment(tmp_path, questions=20, published="llava_1_5_7b", figures=[])
    for published in (False, True):
        path, built = build_everything(tmp_path, published)
        assert [one.problems for one in built] == [()]
        parsed = Parsed(path.read_text())
        labels = [one.get("aria-label") for one in parsed.all("table")]
        assert ("Published rows beside tiny_main" in labels) == published
    assert (tmp_path / "tables" / "tiny_main_published.csv").is_file()
    notes = [(content, one.get("data-note", "")) for one, content in parsed.cells]
    others = [(content, note) for content, note in notes if note.startswith("Published, not measured here. Source: ")]
    assert len(others) > 50
    assert any(content == "61.9" and "Protocol: " in note for content, note in others)  # GQA, unpruned
    assert not any("ours" in content for content, _ in others)  # another backbone: no differences


def test_no_experiment_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="run 'make tables' first"):
        build_everything(tmp_path)


def test_one_broken_experiment_is_named_and_the_others_are_built(tmp_path: Path, script: Any) -> None:
    write_experiment(tmp_path, "tiny_main", questions=20)
    (tmp_path / "experiments" / "broken.json").write_text("{")
    # without the unpruned model there is a table and nothing to draw
    write_plan(tmp_path, "undrawn", [planned(*key) for key in plan() if key[0] != "none"])
    status, out, err = script("report", "experiment=all")
    assert (status, out) == (1, f"report: {tmp_path / 'report.html'} (3 experiments)\n")
    assert [line.split(" ", 2)[1] for line in err.splitlines()] == ["broken:", "undrawn:"]
    page = (tmp_path / "report.html").read_text()
    assert [one["id"] for one in Parsed(page).all("article")] == ["e-tiny_main", "e-undrawn"]
    assert "is not valid JSON" in page.partition('<section id="tables"')[0]
    assert (tmp_path / "tables" / "undrawn.md").is_file()


needs_browser = pytest.mark.skipif(
    executable() is None, reason="no Chromium on this machine; 'apt-get install chromium' gives one, .ci/run does so"
)


def resize(browser: Browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.call("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def browser(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        resize(one, 1280, 900)
        yield one


@pytest.fixture
def opened(browser: Browser, root: Path) -> Browser:
    """The page, just opened, as a system in light mode shows it."""
    browser.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    browser.open((root / "report.html").as_uri())
    return browser


TABLE = "#e-tiny_main table"
LABELS = f"[...document.querySelectorAll('{TABLE} tbody tr')].map((row) => row.cells[0].textContent)"


def column(at: int) -> str:
    """Script for a column's numbers, a list per group of rows."""
    return (
        f"[...document.querySelectorAll('{TABLE} tbody')].map((body) => [...body.rows]"
        f".filter((row) => row.cells.length > {at}).map((row) => parseFloat(row.cells[{at}].textContent)))"
    )


@needs_browser
class TestInBrowser:
    def test_opens_without_errors_or_requests_and_runs_nothing_hostile(self, opened: Browser, root: Path) -> None:
        assert opened.logged == []
        outside = [one for one in opened.asked if not one.startswith("data:")]
        assert outside == [(root / "report.html").as_uri()]
        assert opened.evaluate("window.hacked ?? null") is None
        assert opened.evaluate("document.querySelector('#h-hostile').textContent") == f"Hostile {MARKUP}"
        assert opened.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")

    def test_policy_stops_a_script_that_gets_in_after_all(self, opened: Browser) -> None:
        opened.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=3\">')")
        opened.evaluate(
            "(() => { const s = document.createElement('script'); s.textContent = 'window.hacked=4'; "
            "document.body.append(s); })()"
        )
        opened.wait("document.querySelectorAll('script').length === 3")
        assert opened.evaluate("window.hacked ?? null") is None
        assert any("Content Security Policy" in line for line in opened.logged)

    def test_click_sorts_within_budgets_then_back(self, opened: Browser) -> None:
        before = opened.evaluate(LABELS)
        groups = opened.evaluate(column(2))
        head = f"{TABLE} thead th:nth-child(3)"
        opened.point(f"{head} button", click=True)
        assert opened.evaluate(column(2)) == [sorted(group, reverse=True) for group in groups]
        assert opened.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
        assert "descending by easy-VQA" in opened.evaluate("document.querySelector('#status').textContent")
        opened.point(f"{head} button", click=True)
        assert opened.evaluate(column(2)) == [sorted(group) for group in groups]
        assert opened.evaluate(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
        opened.point(f"{head} button", click=True)
        assert opened.evaluate(LABELS) == before
        assert opened.evaluate(f"document.querySelectorAll('{TABLE} [aria-sort]').length") == 0

    def test_budgets_can_be_mixed_and_then_each_row_shows_its_own(self, opened: Browser) -> None:
        groups = opened.evaluate(column(2))
        shown = f"document.querySelector('{TABLE} td.budget').offsetParent !== null"
        assert not opened.evaluate(shown)
        opened.point("#e-tiny_main .together input", click=True)
        opened.point(f"{TABLE} thead th:nth-child(3) button", click=True)
        assert opened.evaluate(column(2)) == [sorted((one for group in groups for one in group), reverse=True)]
        assert opened.evaluate(shown)
        opened.point("#e-tiny_main .together input", click=True)
        assert opened.evaluate(column(2)) == [sorted(group, reverse=True) for group in groups]

    def test_empty_entries_come_last_in_either_direction(self, opened: Browser) -> None:
        place = BENCHMARKS.index("tiny_textvqa") + 3
        last = (
            "(() => { const rows = [...document.querySelectorAll('#e-hostile tbody')].at(-1).rows; "
            f"return rows[rows.length - 1].cells[{place - 1}].textContent; }})()"
        )
        for _ in range(2):
            opened.point(f"#e-hostile thead th:nth-child({place}) button", click=True)
            assert opened.evaluate(last) == ""

    def test_keyboard_reaches_sorts_moves_and_reads(self, opened: Browser) -> None:
        opened.evaluate("document.querySelector('#e-tiny_main .together input').focus()")
        opened.press("Tab")
        assert opened.evaluate("document.activeElement.textContent") == "method"
        opened.press("ArrowRight")
        assert opened.evaluate("document.activeElement.textContent") == "easy-VQA"
        groups = opened.evaluate(column(2))
        opened.press("Enter")
        assert opened.evaluate(column(2)) == [sorted(group, reverse=True) for group in groups]
        opened.press("ArrowDown")
        assert opened.evaluate("document.activeElement.closest('tr').cells[0].textContent") == "Unpruned"
        assert opened.evaluate("document.querySelector('#tip').hidden") is False
        tip = opened.evaluate("document.querySelector('#tip').innerText")
        assert signature("none", 576, "easy_vqa") in tip
        assert opened.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
        opened.press("Escape")
        assert opened.evaluate("document.querySelector('#tip').hidden") is True
        opened.press("End")
        opened.press("ArrowLeft")
        assert opened.evaluate("document.activeElement.cellIndex") == opened.evaluate(
            f"document.querySelector('{TABLE} thead tr').cells.length - 2"
        )
        opened.press("Tab")  # one stop for the whole table
        assert opened.evaluate("document.activeElement.closest('table')") is None

    def test_pointing_at_a_number_tells_its_provenance_as_text(self, opened: Browser) -> None:
        opened.point("#e-hostile tbody:nth-of-type(2) tr:nth-of-type(2) td:nth-of-type(2)")
        opened.wait("!document.querySelector('#tip').hidden")
        tip = opened.evaluate("document.querySelector('#tip').textContent")
        assert own("random", 192, "easy_vqa") in tip
        assert f"run.py note={MARKUP}" in tip
        assert opened.evaluate("document.querySelectorAll('#tip script, #tip img').length") == 0
        opened.point("#summary h1")
        opened.wait("document.querySelector('#tip').hidden")
        assert opened.evaluate("window.hacked ?? null") is None

    def test_theme_follows_the_system_until_switched_and_is_kept(self, opened: Browser, root: Path) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = opened.evaluate(ground)
        opened.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        dark = opened.evaluate(ground)
        assert light != dark
        opened.wait("document.querySelector('#theme').textContent === 'Light'")
        opened.point("#theme", click=True)
        assert opened.evaluate(ground) == light
        opened.open((root / "report.html").as_uri())
        assert opened.evaluate(ground) == light
        opened.point("#theme", click=True)
        assert opened.evaluate(ground) == dark
        opened.evaluate("localStorage.clear()")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_enough_contrast(self, opened: Browser, scheme: str) -> None:
        opened.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        found = opened.evaluate(CONTRAST)
        assert len(found) > 8
        assert {pair: ratio for pair, ratio in found.items() if ratio < 4.5} == {}

    def test_fits_a_phone(self, opened: Browser) -> None:
        resize(opened, 360, 740)
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        resize(opened, 1280, 900)


# WCAG's contrast of every pair of text and ground on the page: an element's colour and the nearest painted ground
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parse(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const one of document.querySelectorAll("details")) one.open = true;
  const found = {};
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || one.offsetParent === null) continue;
    const [text, back] = [getComputedStyle(one).color, ground(one)];
    const [a, b] = [light(parse(text)), light(parse(back))].sort((x, y) => y - x);
    found[`${text} on ${back}`] = (a + 0.05) / (b + 0.05);
  }
  return found;
})()
"""
