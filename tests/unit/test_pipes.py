"""A program whose output pipe is closed ends without an error message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clasp.pipes import NOT_READ, until_closed

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PRINTS = """
import sys
from clasp.arguments import run
from clasp.cli.commands import Status

sys.exit(run(Status, lambda arguments: print("x" * {length}, file={stream}){then}, [], ""))
"""


def unread(folder: Path, *command: str, errors: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    """Runs Python with a standard output that nobody reads, and that is buffered also where a variable forbids it."""
    reading, writing = os.pipe()
    os.close(reading)
    program, variables = [sys.executable, *command], {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open(writing, "wb", buffering=0) as closed:
        return subprocess.run(
            program, cwd=folder, env=variables, stdout=closed, stderr=errors, timeout=120, check=False
        )


@pytest.mark.parametrize("arguments", [["status.py", "--help"], ["run.py", "--cfg", "job"]], ids=" ".join)
def test_scripts_end_quietly(tmp_path: Path, arguments: list[str]) -> None:
    ended = unread(tmp_path, str(SCRIPTS / arguments[0]), *arguments[1:])
    assert (ended.returncode, ended.stderr) == (NOT_READ, b"")


@pytest.mark.parametrize(("length", "then"), [(10_000_000, ""), (100, " or sys.exit(3)")], ids=["long", "short"])
def test_output_of_any_length_whatever_the_exit_code(tmp_path: Path, length: int, then: str) -> None:
    ended = unread(tmp_path, "-c", PRINTS.format(length=length, stream="sys.stdout", then=then))
    assert (ended.returncode, ended.stderr) == (NOT_READ, b"")


def test_errors_that_nobody_reads(tmp_path: Path) -> None:
    ended = unread(tmp_path, "-c", PRINTS.format(length=100, stream="sys.stderr", then=""), errors=subprocess.STDOUT)
    assert ended.returncode == NOT_READ


def test_other_pipes_that_break_are_errors() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError), until_closed():
        os.write(writing, b"x")
    os.close(writing)


def test_an_exit_code_is_kept() -> None:
    with pytest.raises(SystemExit, match="7"), until_closed():
        raise SystemExit(7)
