"""A headless Chromium for tests of the report's page, controlled through two pipes (``--remote-debugging-pipe``)."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60
"""Longest wait for any answer."""


def executable() -> str | None:
    """Path of a Chromium, None where the machine has none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One Chromium with one page. It records what the page logs and which addresses it requests."""

    def __init__(self, profile: Path) -> None:
        found = executable()
        assert found is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        switches = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run remote-debugging-pipe"
        switches += " disable-background-networking"
        arguments = [found, *(f"--{one}" for one in switches.split()), f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads file 3 and writes file 4; bash moves ours there
        moved = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *arguments], pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._loaded = b"", 0, 0
        self.logged: list[str] = []
        self.asked: list[str] = []
        self._page: dict[str, str] = {}  # what addresses a command to the page instead of the browser
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._page = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, address: str) -> None:
        """Goes to the address and waits until it has loaded; what was logged and asked before is forgotten."""
        self.logged.clear()
        self.asked.clear()
        before = self._loaded
        self.call("Page.navigate", {"url": address})
        while self._loaded == before:
            self._receive(time.monotonic() + SECONDS)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; an exception there is one here."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key, pressed and let go; named as the DOM names it."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "Home": 36, "End": 35}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **event, **({"text": text} if text else {})})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def point(self, selector: str, click: bool = False) -> None:
        """Moves the mouse to the middle of the first such element, which is scrolled to, and may click there."""
        at = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'}); "
            "const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
        )
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", {"type": kind, "button": "left", "clickCount": 1, **at})

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        until = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """One command of the DevTools protocol for the page."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}, **self._page}
        payload = json.dumps(message).encode() + b"\0"
        while payload:
            payload = payload[os.write(self._out, payload) :]
        until = time.monotonic() + SECONDS
        while True:
            answer = self._receive(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self, until: float) -> dict[str, Any]:
        """The next message; what it says of the page is kept."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            chunk = os.read(self._in, 1 << 16)
            assert chunk, "Chromium has gone"
            self._buffer += chunk
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(raw)
        self._keep(message.get("method", ""), message.get("params", {}))
        return message

    def _keep(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.logged.append(" ".join(str(one.get("value", one)) for one in parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.logged.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.logged.append(parameters["entry"]["text"])
