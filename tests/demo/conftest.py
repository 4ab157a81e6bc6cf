"""The page as it is served, with the tiny backbone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from clasp.demo.asking import DemoRequest, Models
from clasp.demo.server import CHOSEN, Example, Page, examples


@pytest.fixture(scope="session")
def shown() -> list[Example]:
    return examples()


@pytest.fixture(scope="session")
def models(shown: list[Example]) -> Models:
    """Has answered once, as before a page is served, because loading the router can exceed a browser's timeout."""
    models = Models()
    models.answer(DemoRequest(shown[0].image, shown[0].question, CHOSEN, 64))
    return models


@pytest.fixture(scope="session")
def address(models: Models, shown: list[Example]) -> Iterator[str]:
    """The address of a running server."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Page(models, shown).app(), access_log=False, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
