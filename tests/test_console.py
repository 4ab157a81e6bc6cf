"""``clasp-eval``: every command of the evaluation from any folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clasp.cli import jobs
from clasp.cli.console import explain
from clasp.cli.main import COMMANDS, main
from clasp.evaluation.questions.custom import BadRows
from clasp.results.provenance import command


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/clasp-eval", *words])
    try:
        return main()
    except SystemExit as stopped:  # Hydra, after --help
        return int(stopped.code or 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, "--help") == 0
    assert "clasp-eval" in capsys.readouterr().out
    assert command() == f"clasp-eval {name} --help", "as results record it"


def test_what_is_no_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "statsu") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: unknown command 'statsu': use one of ")
    assert shown.err.endswith("did you mean status?\n")
    assert call(monkeypatch) == 2
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_a_message_holds_nothing_that_a_terminal_obeys() -> None:
    for error in (ValueError("no file \x1b[31m\ud800é"), BadRows("line 1: \x07\nline 2")):
        said = explain(error)
        assert all(line.isprintable() for line in said.split("\n"))
        assert said.encode().decode() == said
    assert explain(ValueError("no file \x1b[31m\ud800é")) == "no file \\x1b[31m\\ud800é"


def test_a_user_has_configurations_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that has nothing else."""
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "late.yaml").write_text("name: fastv\nlayer: 5\n")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "run", "--config-dir", "mine", "method=late", "tokens=64", "--cfg", "job") == 0
    assert "method:\n  name: fastv\n  layer: 5\n" in capsys.readouterr().out
    assert call(monkeypatch, "run", "method=late", "tokens=64", "--cfg", "job") == 2
    assert "unknown method 'late'" in capsys.readouterr().err


def test_installed_policies_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "is_installed", lambda: True)
    assert call(monkeypatch, "calibrate") == 2
    assert "say for example policy_file=results/policy/tiny.yaml" in capsys.readouterr().err
