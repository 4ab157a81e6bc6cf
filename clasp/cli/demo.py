"""A local page to try methods on: shows their answers to your question side by side, and the tokens that each keeps.

    clasp-eval demo [port=7860] [backbone=tiny] [browser=1]

Serves this machine only and needs no network; to reach it on a remote machine, use ``ssh -L 7860:localhost:7860``.
``port=0`` takes any free port, ``backbone`` (a hub id or a model's folder) is preselected, ``browser=0`` opens no
browser.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass

from clasp.arguments import run
from clasp.strict import ConfigError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class DemoConfig:
    """The arguments of ``clasp-eval demo``."""

    port: int = 7860
    backbone: str = "tiny"
    browser: bool = True


def main(arguments: Sequence[str]) -> int:
    """Serves until interrupted; returns the exit code."""
    return run(DemoConfig, _main, arguments, str(__doc__))


def _main(config: DemoConfig) -> int:
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the page needs {package}; run pip install -e '.[demo]'")
    listening = _listen(config.port)
    address = f"http://{HOST}:{listening.getsockname()[1]}/"
    print("loading the model", flush=True)
    # choosing a backbone on the page must not start a download; `make prefetch` is for that
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import uvicorn

    from clasp.backbones import BackboneUnavailable
    from clasp.demo.asking import DemoRequest, Models
    from clasp.demo.server import CHOSEN, TOKENS, Page, examples

    models, shown = Models(), examples()
    # answered here once, because libraries and the router load with the first question
    try:
        models.answer(DemoRequest(shown[0].image, shown[0].question, CHOSEN, TOKENS, config.backbone))
    except (BackboneUnavailable, ValueError) as error:
        raise ConfigError(str(error)) from error
    print(f"{address} (Ctrl-C ends it)", flush=True)
    if config.browser and (sys.platform in ("darwin", "win32") or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}):
        webbrowser.open(address)  # the connection waits until the server accepts it
    app = Page(models, shown, config.backbone).app()
    # no access log: URLs contain the questions
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listening])
    return 0


def _listen(port: int) -> socket.socket:
    """A listening socket that only this machine can reach."""
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"port={port} cannot be used ({error}); give another one, or port=0 for any free port"
        ) from error
