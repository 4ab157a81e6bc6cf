"""The HTML page: what it shows, that hostile text stays text, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, executable
from command_line import ROOT
from synthetic import BENCHMARKS, Root, plan, planned, retention, routers, signature, write_retention

from clasp.report.build import build_everything, build_experiment
from clasp.report.html.escape import shortened, visible
from clasp.report.html.examples import verdict
from clasp.report.html.page import images

pytestmark = pytest.mark.xdist_group("html")  # one page for all

# half a surrogate pair, a control, a direction override, and what would end a script, an attribute or a comment
MARKUP = (
    "</script x><!--<script></script><script>window.hacked=1</script>"
    '<img src=https://x.invalid/a onerror="window.hacked=2">\'&amp;-->'
)
HOSTILE = f"{MARKUP}\x00\x1b\u202e\ud800"
HOSTILE_ROW = f"{MARKUP}\x07"
VOID = {"meta", "link", "img", "input", "br"}


@dataclass
class Cell:
    """A ``<td>`` or ``<th>``."""

    attributes: dict[str, str]
    text: str = ""


class Parsed(HTMLParser):
    """The page's elements with their attributes, and its tables' rows with their cells; nesting is checked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.rows: list[tuple[dict[str, str], list[Cell]]] = []
        self.feed(text)
        self.close()
        self.cells = [cell for _, cells in self.rows for cell in cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((attributes, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append(Cell(attributes))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][1][-1].text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def lines(self) -> list[list[str]]:
        """The texts of each row's cells."""
        return [[cell.text for cell in cells] for _, cells in self.rows]


def hostile_row(row: str) -> str:
    """A name whose cells' signatures are shared with no other experiment."""
    return f"hostile {row}"


def write_hostile(results: Path) -> None:
    """An experiment whose title, row, questions and answers are attacks; one of its cells is missing."""
    root, cells = Root(results, "hostile"), []
    keys = [(method, method, tokens, name) for method, tokens, name in plan(("random", "clasp")) if tokens != 128]
    keys += [(HOSTILE_ROW, "clasp", 64, name) for name in BENCHMARKS]
    for row, method, tokens, name in keys:
        own = (hostile_row(row), tokens, name)
        root.put(*own, [1.0, 0.0, 0.0 if method == "random" else 1.0, 1.0], method=method, backbone="hostile")
        root.alter(own, provenance={"command": f"run.py note={MARKUP}", "assumptions": [f"{method}: {MARKUP}"]})
        root.change_answers(own, lambda *_: {"prompt": HOSTILE, "answer": [HOSTILE], "prediction": HOSTILE})
        cells.append(planned(method, tokens, name, row, signature(*own)))
    root.remove((hostile_row("random"), 64, "tiny_textvqa"))
    root.plan(cells, report={"title": f"Hostile {MARKUP}", "reference": None}, command=f"run.py {HOSTILE_ROW}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results root with three experiments, one of them hostile, one an ablation, and the page built from them."""
    results = tmp_path_factory.mktemp("html")
    write_hostile(results)
    Root(results, "ablation_parts").write(questions=40, title="Ablation c", figures=[])
    Root(results).write(questions=40)
    (results / "router.json").write_text(json.dumps(routers(categories=["ocr", MARKUP])))
    first = retention()["maps"][0]
    write_retention(results, name="pictures", maps=[first | {"prediction": "<i>blue</i>", "right": False}])
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
    shown = [cell.text for cell in parsed.cells if MARKUP in cell.text]
    assert f"{MARKUP}[U+0000][U+001B][U+202E][U+D800]" in shown
    assert f"{MARKUP}[U+0007]" in shown
    assert f"Hostile {MARKUP}" in shown


def test_script_never_parses_markup() -> None:
    text = (ROOT / "clasp" / "report" / "html" / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|DOMParser", text)


def test_every_number_names_its_cells(text: str, parsed: Parsed) -> None:
    stored = json.loads(re.search(r'id="provenance">(.*?)</script>', text)[1])
    pool, cells = stored["pool"], stored["cells"]
    facts = [dict(zip(stored["fields"], (pool[at] for at in one), strict=True)) for one in cells]
    planned_cells = {signature(*key) for key in plan()}
    assert planned_cells <= {one["cell"] for one in facts}
    assert len({one["cell"] for one in facts}) == len(facts)  # stored once, though two experiments share them
    row, shown = next((row, cells) for row, cells in parsed.rows if [c.text for c in cells[:2]] == ["VisionZip", "128"])
    own = [signature("visionzip", 128, name) for name in BENCHMARKS]
    assert [facts[int(at)]["cell"] for at in row["data-c"].split()] == own
    number = shown[2 + BENCHMARKS.index("tiny_textvqa")]
    fact = facts[int(number.attributes["data-c"])]
    assert fact["cell"] == own[BENCHMARKS.index("tiny_textvqa")]
    assert (fact["questions"], fact["code"]) == ("40 of 500", "commit 0123abc")
    assert fact["device"] == "CPU: Example 2 cores, batch size 8"
    score = float(fact["score as stored"].split()[0])
    assert number.text.split()[0] == f"{100 * score:.1f}"
    low, high = (float(part) for part in re.findall(r"\d\.\d+|\b[01]\b", number.attributes["data-note"])[:2])
    assert low < score < high
    assert "data-c" not in shown[2 + len(BENCHMARKS)].attributes  # the average rests on all cells of the row
    assert shown[-1].attributes["data-note"].startswith("Paired with the row Random")


def test_experiments_stand_in_order_and_what_is_missing_is_said_first(text: str, parsed: Parsed) -> None:
    articles = [one["id"] for one in parsed.all("article") if "id" in one]
    assert articles == ["e-tiny_main", "e-hostile", "e-ablation_parts"]
    assert text.index("hostile: 1 of 42 planned cells have not been run.") < text.index('<section id="tables"')
    empty = [cell.attributes["data-note"] for cell in parsed.cells if cell.attributes.get("data-c") == ""]
    assert [note[:8] for note in empty] == ["Not run:"]


def test_figures_are_inside_with_words_for_what_they_show(parsed: Parsed) -> None:
    images = parsed.all("img")
    assert all(one["src"].startswith("data:image/") for one in images)
    assert ["FLOPs" in one["alt"] for one in images] == [True, True, False]
    assert "pivots and completion tokens in two colours" in images[2]["alt"]
    kept = (
        "layer 2: 4 (2 pivots, 2 completion); layer 4: 2 (1 pivots, 1 completion); layer 6: 1 (0 pivots, 1 completion)"
    )
    assert ["What costs $5 and $6? (red)", "CLASP, 4", "<i>blue</i> wrong", kept] in parsed.lines


def test_examples_show_first_where_the_rows_differ(parsed: Parsed) -> None:
    classes = [[cell.attributes.get("class") for cell in cells[2:]] for _, cells in parsed.rows]
    verdicts = [row for row in classes if {*row} and {*row} <= {"right", "wrong"}]
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


def test_verdicts_and_texts_in_words() -> None:
    scores = (1.0, True, 0.3, 0.0, None, "1")
    assert [*map(verdict, scores)] == ["right", "right", "partly right", "wrong", "not scored", "not scored"]
    assert shortened("a" * 700) == "a" * 600 + " … (100 more characters)"
    plain = "Größe 大きさ שלום\n\tx≤1 👍" + "a" * 500
    assert shortened(plain) == visible(plain) == plain


def test_page_is_small_and_the_same_for_the_same_results(root: Path, text: str) -> None:
    assert len(text) < 400_000
    build_everything(root)
    assert (root / "report.html").read_text(encoding="utf-8") == text


def test_large_figures_go_in_as_png(tmp_path: Path) -> None:
    Root(tmp_path).write(questions=20)
    summary = build_experiment("tiny_main", tmp_path).summary
    (small,) = images(summary)
    svg = next((tmp_path / "figures").glob("*.svg"))
    svg.write_text(svg.read_text() + "<!--" + "x" * 200_000 + "-->")
    (large,) = images(summary)
    assert (small.source[:18], large.source[:14]) == ("data:image/svg+xml", "data:image/png")


def test_published_rows_stand_apart_and_tell_their_source(tmp_path: Path) -> None:
    Root(tmp_path).write(questions=20, published="llava_1_5_7b", figures=[])
    for published in (False, True):
        path, built = build_everything(tmp_path, published)
        assert [one.problems for one in built] == [()]
        parsed = Parsed(path.read_text())
        labels = [one.get("aria-label") for one in parsed.all("table")]
        assert ("Published rows beside tiny_main" in labels) == published
    assert (tmp_path / "tables" / "tiny_main_published.csv").is_file()
    start = "Published, not measured here. Source: "
    others = [cell for cell in parsed.cells if cell.attributes.get("data-note", "").startswith(start)]
    assert len(others) > 50
    assert any(cell.text == "61.9" and "Protocol: " in cell.attributes["data-note"] for cell in others)  # GQA, unpruned
    assert not any("ours" in cell.text for cell in others)  # another backbone: no differences


needs_browser = pytest.mark.skipif(
    executable() is None, reason="no Chromium on this machine; 'apt-get install chromium' gives one, .ci/run does so"
)


def resize(browser: Browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.call("Emulation.setDeviceMetricsOverride", size)


def system(browser: Browser, scheme: str) -> None:
    """Makes the system's colour scheme light or dark."""
    browser.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


@pytest.fixture(scope="module")
def browser(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        resize(one, 1280, 900)
        yield one


@pytest.fixture
def opened(browser: Browser, root: Path) -> Browser:
    """The page, just opened, as a system in light mode shows it."""
    system(browser, "light")
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
        script = "Object.assign(document.createElement('script'), {textContent: 'window.hacked=4'})"
        opened.evaluate(f"document.body.append({script})")
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
        assert signature(hostile_row("random"), 192, "easy_vqa") in tip
        assert f"run.py note={MARKUP}" in tip
        assert opened.evaluate("document.querySelectorAll('#tip script, #tip img').length") == 0
        opened.point("#summary h1")
        opened.wait("document.querySelector('#tip').hidden")
        assert opened.evaluate("window.hacked ?? null") is None

    def test_theme_follows_the_system_until_switched_and_is_kept(self, opened: Browser, root: Path) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = opened.evaluate(ground)
        system(opened, "dark")
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
        system(opened, scheme)
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
