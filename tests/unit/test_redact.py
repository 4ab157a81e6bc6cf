"""Text that leaves: no home folder, no secrets, and nothing else changed."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from clasp.redact import redact, redact_logs, redact_streams, redacted

SECRET = "planted-f3a9c1e07b"


SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_SECRET", "db_password", "AWS_CREDENTIALS")


@pytest.mark.parametrize(
    ("variables", "text", "clean"),
    [
        *(({name: SECRET}, f"run.py a={SECRET}, then", "run.py a=***, then") for name in SECRETS),
        *(({"MY_KEY": value}, value, "***") for value in ("5eadbeef5ead", "kLmNoPqRstUv", "hunter22", "a-b-c-1-long")),
        ({"A_TOKEN": SECRET, "B_TOKEN": f"{SECRET}-and-more"}, f"x {SECRET}-and-more", "x ***"),
        ({}, "https://ann:pass@example.org/x", "https://***@example.org/x"),
        ({}, f"token hf_{'aB3' * 10}", "token ***"),
        ({}, f"key=sk-proj-{'x1' * 12}.", "key=***."),
    ],
)
def test_secrets_are_hidden(variables: dict[str, str], text: str, clean: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert redact(text) == clean


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("A_TOKEN", value) for value in ("false", "a1b2c3", "output_average", "Not-Needed", "REQUIRED")),
        *(("A_KEY", "-" * 5000 + "x"), ("A_KEY", ""), ("A_KEY_FILE", "/etc/some-key"), ("A_MODEL", SECRET)),
        *(("A", "disk-usage-of-the-whole-experiment-folder"), ("A", "ann@example.org, https://example.org/a@b")),
    ],
    ids=lambda value: value[:20],
)
def test_ordinary_values_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"a {value} b") == f"a {value} b"


def test_logs_are_redacted_with_their_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    with monkeypatch.context() as patched:
        patched.setattr(logging.getLogger(), "handlers", [handler])
        redact_logs()
        redact_logs()
        try:
            raise ValueError(f"no {SECRET}")
        except ValueError:
            logging.getLogger("a.b").exception("with %s at %d", SECRET, 7)
    assert len(handler.filters) == 1
    lines = written.getvalue().splitlines()
    assert lines[:2] + lines[-1:] == ["with *** at 7", "Traceback (most recent call last):", "ValueError: no ***"]
    assert SECRET not in written.getvalue()


def test_the_home_folder_is_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "ann"
    real.mkdir()
    linked.symlink_to(real)
    monkeypatch.setenv("HOME", f"{linked}/")
    for folder in (linked, real):
        assert redact(f"data={folder}/my.jsonl '{folder}'") == "data=~/my.jsonl '~'"
        assert redact(f"{folder}a/b {folder}-old") == f"{folder}a/b {folder}-old"
    for home in ("/", "", "relative"):
        monkeypatch.setenv("HOME", home)
        assert redact("/ /a/ relative c") == "/ /a/ relative c"


def test_nested_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HOME", "/home/ann")
    values = {"a": [Path("/home/ann/x"), 1, None], SECRET: {"b": (f"{SECRET}!", 0.5, True)}}
    assert redacted(values) == {"a": ["~/x", 1, None], "***": {"b": ("***!", 0.5, True)}}


def test_what_is_printed_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    written = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(written))
        patched.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
        redact_streams()
        print("a", SECRET, end="")
        assert written.getvalue() == b"a ***", "and at once, without a flush"
