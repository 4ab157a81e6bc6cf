"""Results folders for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ROOT, call
from synthetic import ALL_METHODS, Root

from clasp.report.table_rows import Summary


@pytest.fixture
def results(tmp_path: Path) -> Root:
    """A results root with every cell of the main experiment."""
    return Root(tmp_path).write()


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls a script by its name and arguments on the results in ``tmp_path``: exit code, output, errors."""

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        path = ROOT / "scripts" / f"{name}.py"
        status = call(monkeypatch, tmp_path, *arguments, f"results={tmp_path}", script=path)
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The main experiment, to be read and not changed."""
    return Root(tmp_path_factory.mktemp("main")).write().summary()


@pytest.fixture(scope="session")
def every(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """An experiment with every method."""
    return Root(tmp_path_factory.mktemp("every"), "table_llava15_tiny").write(methods=ALL_METHODS).summary()
