"""Text that leaves: no home folder, no secrets, and nothing else changed."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from clasp.redact import redact, redact_logs, redact_streams, redacted

SECRET = "planted-f3a9c1e07b"


def test_values_of_secret_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "MY_SECRET", "db_password", "AWS_CREDENTIALS"):
        monkeypatch.setenv(name, SECRET)
        assert redact(f"run.py a={SECRET}, then") == "run.py a=***, then", name
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLASP_JUDGE_MODEL", SECRET)
    assert SECRET in redact(SECRET)


@pytest.mark.parametrize("value", ["5eadbeef5ead", "kLmNoPqRstUv", "hunter22", "a-b-c-1-longer"])
def test_values_that_are_long_and_no_words_are_hidden(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", value)
    assert redact(f"x {value}") == "x ***"


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
    assert SECRET not in written.getvalue()
    assert "with *** at 7\nTraceback" in written.getvalue()
    assert "ValueError: no ***" in written.getvalue()


def test_a_secret_that_holds_another_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    monkeypatch.setenv("B_TOKEN", f"{SECRET}-and-more")
    assert redact(f"x {SECRET}-and-more") == "x ***"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("A_TOKEN", "false"), ("A_KEY", ""), ("A_KEY_FILE", "/etc/some-key"), ("A_KEY", "a1b2c3")),
        *(("MY_KEY", "output_average"), ("MY_TOKEN", "density_peaks"), ("MY_TOKEN", "Not-Needed")),
        *(("A_KEY", "REQUIRED"), ("A_KEY", "-" * 5000 + "x")),
    ],
)
def test_ordinary_values_stay(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"a {value} b") == f"a {value} b"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://ann:pass@example.org/x", "https://***@example.org/x"),
        (f"token hf_{'aB3' * 10}", "token ***"),
        (f"key=sk-proj-{'x1' * 12}.", "key=***."),
        ("disk-usage-of-the-whole-experiment-folder", "disk-usage-of-the-whole-experiment-folder"),
        ("mail ann@example.org, https://example.org/a@b", "mail ann@example.org, https://example.org/a@b"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_the_home_folder_is_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "ann"
    real.mkdir()
    linked.symlink_to(real)
    monkeypatch.setenv("HOME", f"{linked}/")
    for folder in (linked, real):
        assert redact(f"data={folder}/my.jsonl '{folder}'") == "data=~/my.jsonl '~'"
        assert redact(f"{folder}a/b {folder}-old") == f"{folder}a/b {folder}-old"


def test_a_home_that_is_the_root_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("/", "", "relative"):
        monkeypatch.setenv("HOME", home)
        assert redact("/a/b relative c") == "/a/b relative c"


def test_nested_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HOME", "/home/ann")
    values = {"a": [Path("/home/ann/x"), 1, None], SECRET: {"b": (f"{SECRET}!", 0.5, True)}}
    assert redacted(values) == {"a": ["~/x", 1, None], "***": {"b": ("***!", 0.5, True)}}


def test_what_is_printed_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HF_TOKEN", "planted-token-1")
    written = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(written))
        patched.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
        redact_streams()
        print("/home/ada/data", "planted-token-1", end="")
        assert written.getvalue() == b"~/data ***", "and at once, without a flush"
