"""The page's server: its files, choices and answers, to one visitor at a time. Stores nothing of a visit."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from clasp.backbones import TINY, BackboneUnavailable
from clasp.demo.asking import BACKBONES, MAX_METHODS, MAX_QUESTION, METHODS, DemoRequest, Models
from clasp.demo.drawing import FORMATS, MAX_BYTES, DemoError, check_size

MAX_WAITING = 8
"""Most visitors in the queue, including the one being answered."""
TOKENS = 64
"""The preselected budget: the paper's smallest one on 576 visual tokens."""
CHOSEN = ("clasp", "fastv")
"""The preselected methods."""
_HEADERS = {
    # the browser loads nothing from other servers, whatever the page contains
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_FILES = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """An example question; ``image`` holds the bytes of a PNG file."""

    image: bytes
    question: str
    answer: str


def examples() -> list[Example]:
    """One test question of each of the tiny backbone's benchmarks, about different images."""
    import pyarrow.parquet

    from clasp.tiny import benchmarks

    with tempfile.TemporaryDirectory() as folder:
        paths = benchmarks.build(Path(folder), rows=benchmarks.FEWEST * len(benchmarks.NAMES["test"]))
        tables = [pyarrow.parquet.read_table(path).to_pylist() for path in paths.values()]
    shown: dict[bytes, Example] = {}
    for row in (next(row for row in table if row["image"]["bytes"] not in shown) for table in tables):
        shown[row["image"]["bytes"]] = Example(row["image"]["bytes"], row["question"], row["answer"])
    return list(shown.values())


class Page:
    """The page's routes; ``shown`` are the examples, ``backbone`` is preselected."""

    def __init__(self, models: Models, shown: list[Example], backbone: str = TINY) -> None:
        self.models, self.examples, self.backbone = models, shown, backbone
        self.backbones = tuple(dict.fromkeys([backbone, *BACKBONES]))
        self._turn = asyncio.Lock()  # first come, first served
        self._waiting = 0

    def app(self) -> Starlette:
        """The application; it answers local host names only, against DNS rebinding."""
        return Starlette(
            routes=[
                Route("/", _file("page.html")),
                *(Route(f"/{name}", _file(name)) for name in ("page.css", "page.js")),
                Route("/choices", self.choices),
                Route("/examples/{number:int}.png", self.example),
                Route("/answer", self.answer, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
        )

    def choices(self, request: Request) -> Response:
        """The choices of the form."""
        content = {
            "backbones": self.backbones,
            "methods": METHODS,
            "chosen": CHOSEN,
            "tokens": TOKENS,
            "most": {"methods": MAX_METHODS, "question": MAX_QUESTION, "bytes": MAX_BYTES},
            "formats": [f"image/{name.lower()}" for name in FORMATS],
            "examples": [{"question": one.question, "answer": one.answer} for one in self.examples],
        }
        return JSONResponse(content, headers=_HEADERS)

    def example(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self.examples):
            raise HTTPException(404)
        return Response(self.examples[number].image, media_type="image/png", headers=_HEADERS)

    async def answer(self, request: Request) -> Response:
        """The request's body is the image, its query the rest; responds with columns, or with one sentence."""
        try:
            wanted = await self._read(request)
            if self._waiting >= MAX_WAITING:
                return _sentence(f"{MAX_WAITING} visitors are waiting already; try again in a minute.", 503)
            return JSONResponse({"columns": await self._answered(wanted, request)}, headers=_HEADERS)
        except (DemoError, BackboneUnavailable) as error:
            return _sentence(str(error), 400)

    async def _answered(self, wanted: DemoRequest, request: Request) -> list[dict[str, Any]]:
        self._waiting += 1
        try:
            async with self._turn:
                if await request.is_disconnected():  # the visitor left while waiting
                    return []
                return await run_in_threadpool(self.models.answer, wanted)
        finally:
            self._waiting -= 1

    async def _read(self, request: Request) -> DemoRequest:
        query, data = request.query_params, bytearray()
        async for chunk in request.stream():
            data += chunk
            check_size(len(data))  # of a larger file the rest is not read
        if not data:
            raise DemoError("There is no image; drop one or take an example.")
        if not (tokens := query.get("tokens", "")).isdecimal() or len(tokens) > 6:
            raise DemoError(f"The budget {tokens[:20]!r} is no whole number; write it in digits, for example {TOKENS}.")
        if (backbone := query.get("backbone", self.backbone)) not in self.backbones:
            raise DemoError(f"There is no backbone {backbone[:80]!r} here; use {', '.join(self.backbones)}.")
        chosen = tuple(query.getlist("method"))
        return DemoRequest(bytes(data), query.get("question", ""), chosen, int(tokens), backbone)


def _file(name: str) -> Any:
    def respond(request: Request) -> Response:
        return FileResponse(_FILES / name, headers=_HEADERS)

    return respond


def _sentence(text: str, status: int) -> Response:
    return JSONResponse({"sentence": text}, status, headers=_HEADERS)
