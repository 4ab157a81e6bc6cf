"""Results folders for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ROOT, call
from synthetic import ALL_METHODS, summary_of, write_experiment

from clasp.report.table_rows import Summary


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results root with every cell of the main experiment."""
    write_experiment(tmp_path)
    return tmp_path


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
    folder = tmp_path_factory.mktemp("main")
    write_experiment(folder)
    return summary_of(folder)


@pytest.fixture(scope="session")
def every(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """An experiment with every method."""
    folder = tmp_path_factory.mktemp("every")
    write_experiment(folder, "table_llava15_tiny", methods=ALL_METHODS)
    return summary_of(folder, "table_llava15_tiny")
