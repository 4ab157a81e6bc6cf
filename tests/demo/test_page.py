"""The page in a real browser, and the limits of its server."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Browser, executable

from clasp.demo.asking import METHODS, DemoRequest, Models
from clasp.demo.server import MAX_BYTES, MAX_WAITING, Example, Page

pytestmark = pytest.mark.xdist_group("demo")  # one model for all

needs_browser = pytest.mark.skipif(
    executable() is None, reason="no Chromium on this machine; 'apt-get install chromium' gives one, .ci/run does so"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def opened(browser: Browser, address: str) -> Browser:
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.open(address)
    browser.wait("document.documentElement.dataset.ready === 'yes'")
    return browser


def drop(browser: Browser, data: bytes, name: str) -> None:
    """Drops a file onto the page's drop area."""
    browser.evaluate(
        f"""(() => {{
        const bytes = Uint8Array.from(atob({json.dumps(base64.b64encode(data).decode())}), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], {json.dumps(name)}));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {{dataTransfer, bubbles: true}}));
        }})()"""
    )


def answered(browser: Browser) -> list[dict[str, Any]]:
    """Waits for the answers; returns each column's content, and whether its maps were drawn."""
    browser.wait("document.getElementById('status').textContent !== '' && !document.getElementById('ask').disabled")
    assert browser.evaluate("document.getElementById('status').textContent") == "Answered; see below."
    browser.wait("[...document.querySelectorAll('#columns img')].every((one) => one.complete)")
    return browser.evaluate(
        """[...document.querySelectorAll("#columns article")].map((one) => ({
        method: one.querySelector("h2").textContent, answer: one.querySelector(".answer").textContent,
        maps: [...one.querySelectorAll("img")].map((map) => [map.naturalWidth, map.alt]),
        costs: [...one.querySelectorAll("tr")].map((row) => row.textContent)}))"""
    )


@needs_browser
def test_an_image_is_dropped_and_the_answers_and_maps_appear(
    opened: Browser, address: str, models: Models, shown: list[Example]
) -> None:
    example = shown[1]
    drop(opened, example.image, "<b>mine</b>.png")
    assert opened.evaluate("document.getElementById('invite').textContent") == "<b>mine</b>.png"
    opened.evaluate(f"document.getElementById('question').value = {json.dumps(example.question)}")
    opened.point("#ask", click=True)
    found = answered(opened)
    expected = models.answer(DemoRequest(example.image, example.question, ("fastv", "clasp"), 64))
    assert [(one["method"], one["answer"]) for one in found] == [(one["method"], one["answer"]) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["maps"] == [[24 * 16, stage["text"]] for stage in other["stages"]]
        untimed = [f"{name}{value}" for name, value in other["costs"] if " ms" not in value]
        assert one["costs"][1 : len(untimed) + 1] == untimed
    assert [one["costs"][0] for one in found[:2]] == ["Categorynot routed"] * 2
    assert found[2]["costs"][0] == f"Category{expected[2]['category']}, confidence {expected[2]['confidence']:.2f}"
    assert [len(one["maps"]) for one in found] == [0, 1, 3]
    asked = {url for url in opened.asked if not url.startswith(("blob:", "data:"))}
    assert f"{address}choices" in asked
    assert all(url.startswith(address) for url in asked)
    assert opened.logged == []


@needs_browser
def test_a_damaged_file_gets_its_sentence(opened: Browser, shown: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    path.write_bytes(shown[1].image[:5000])
    root = opened.call("DOM.getDocument")["root"]
    node = opened.call("DOM.querySelector", {"nodeId": root["nodeId"], "selector": "#file"})
    opened.call("DOM.setFileInputFiles", {"files": [str(path)], **node})
    opened.evaluate("document.getElementById('question').value = 'What is it?'")
    opened.point("#ask", click=True)
    opened.wait("document.getElementById('status').className === 'wrong'")
    assert opened.evaluate("document.getElementById('status').textContent") == (
        "The image is damaged (PNG cannot be decoded); save it anew and try again."
    )
    assert opened.evaluate("document.getElementById('results').hidden")


@needs_browser
def test_an_example_is_asked_about_with_the_keyboard_alone(opened: Browser, shown: list[Example]) -> None:
    for _ in range(3):  # the file, the first example, the second
        opened.press("Tab")
    assert opened.evaluate("document.activeElement.title") == shown[1].question
    opened.press("Enter")
    opened.wait(f"document.getElementById('question').value === {json.dumps(shown[1].question)}")
    while opened.evaluate("document.activeElement.id") != "question":
        opened.press("Tab")
    for expected in METHODS:
        opened.press("Tab")
        value = opened.evaluate("document.activeElement.value")
        assert value == expected
        if value in ("clasp", "divprune"):  # off, on
            opened.press(" ")
    while opened.evaluate("document.activeElement.id") != "ask":
        opened.press("Tab")
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.press("Enter")
    assert [one["method"] for one in answered(opened)] == ["Unpruned", "FastV", "DivPrune"]


@needs_browser
def test_no_more_methods_can_be_chosen_than_are_answered(opened: Browser) -> None:
    for name in ("tome", "dart"):
        opened.point(f"#methods input[value={name}]", click=True)
    boxes = "[...document.querySelectorAll('#methods input')]"
    assert opened.evaluate(f"{boxes}.filter((one) => !one.disabled).map((one) => one.value).sort()") == (
        ["clasp", "dart", "fastv", "tome"]
    )
    opened.point("#methods input[value=tome]", click=True)
    assert opened.evaluate(f"{boxes}.every((one) => !one.disabled)")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_scroll_in_one_direction_in_both_schemes(opened: Browser, scheme: str) -> None:
    opened.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    long = {"method": "long", "answer": "x" * 200, "category": "general", "confidence": 0.5}
    long |= {"stages": [{"text": "t", "map": None}], "costs": [("Visual tokens, output average", "1,234.5")]}
    for width in (320, 1280):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        opened.call("Emulation.setDeviceMetricsOverride", size)
        columns = f"...Array(5).fill({json.dumps(long)}).map(column)"
        opened.evaluate(f"at('results').hidden = false, at('columns').replaceChildren({columns})")
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        tops = opened.evaluate("new Set([...document.querySelectorAll('article')].map((one) => one.offsetTop)).size")
        assert tops == {320: 5, 1280: 1}[width]
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) > 384) == (scheme == "light")


class Slow(Models):
    """Answers slowly, and records overlapping answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = 0
        self.order: list[str] = []

    def answer(self, asked: DemoRequest) -> list[dict[str, Any]]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.order.append(asked.question)
        self.inside -= 1
        return []


def requests(page: Page, *queries: dict[str, Any], body: Any = b"x", host: str = "localhost") -> list[httpx.Response]:
    """The answers to visitors who ask at the same time."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(page.app())
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            filled = [{"question": "q", "method": "fastv", "tokens": "64", **query} for query in queries]
            return await asyncio.gather(*(client.post("/answer", params=query, content=body) for query in filled))

    return asyncio.run(ask())


def test_visitors_are_answered_one_by_one_in_their_order_and_too_many_are_told() -> None:
    models = Slow()
    found = requests(Page(models, []), *({"question": str(number)} for number in range(MAX_WAITING + 2)))
    assert (models.most, models.order) == (1, [str(number) for number in range(MAX_WAITING)])
    assert [one.status_code for one in found] == [200] * MAX_WAITING + [503] * 2
    assert found[-1].json()["sentence"] == "8 visitors are waiting already; try again in a minute."


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"tokens": "64.5"}, "'64.5' is no whole number"),
        ({"tokens": "²"}, "is no whole number"),
        ({"tokens": ""}, "is no whole number"),
        ({"tokens": "9" * 5000}, "is no whole number"),
        ({"backbone": "/etc"}, "There is no backbone '/etc' here; use tiny, "),
        ({"question": ""}, "There is no question"),
        ({"method": "nonsense"}, "There is no method 'nonsense'"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(query: dict[str, str], said: str) -> None:
    (found,) = requests(Page(Slow(), []), query)
    assert (found.status_code, list(found.json())) == (400, ["sentence"])
    assert said in found.json()["sentence"]


def test_no_more_of_a_body_is_read_than_may_be_sent() -> None:
    read = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 2**20
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}  # without end

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/answer", "query_string": b""}
    scope |= {"headers": [(b"host", b"localhost")]}
    asyncio.run(Page(Slow(), []).app()(scope, receive, send))
    assert (sent[0]["status"], read) == (400, MAX_BYTES + 2**20)
    assert b"more than 10 MiB" in sent[1]["body"]


def test_every_file_forbids_what_comes_from_elsewhere_and_other_names_are_refused(address: str) -> None:
    for path in ("", "page.css", "page.js", "choices", "examples/0.png"):
        found = httpx.get(address + path)
        assert found.status_code == 200
        assert "default-src 'none'" in found.headers["Content-Security-Policy"]
        assert not re.search(r"https?://", found.text if "image" not in found.headers["Content-Type"] else "")
        assert httpx.get(address + path, headers={"Host": "elsewhere.invalid"}).status_code == 400
    assert httpx.get(f"{address}examples/99.png").status_code == 404
    assert requests(Page(Slow(), []), {}, body=b"")[0].json()["sentence"].startswith("There is no image")
