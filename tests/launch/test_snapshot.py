"""Snapshots hold the submitted code and its commit, and processes started in them import it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clasp.launch import snapshot
from clasp.launch.submit import importing
from clasp.results import provenance


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", "-C", str(root), *who, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small project with files that a snapshot copies and files that it leaves out."""
    made = tmp_path / "project"
    files = ["clasp/__init__.py", "configs/config.yaml", "scripts/run.py", "README.md"]
    files += ["results/reference/x.json", "tests/test_x.py", "notebooks/x.ipynb", ".venv/x", "clasp/__pycache__/x.pyc"]
    for name in files:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"# {name}\n")
    (made / ".gitignore").write_text(".venv/\n__pycache__/\nsite.yaml\n")
    return made


@pytest.fixture
def checkout(root: Path) -> Path:
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def names(code: Path) -> set[str]:
    return {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}


def test_a_clean_checkout(checkout: Path, tmp_path: Path) -> None:
    code = snapshot.take(tmp_path / "sweep", checkout)
    assert names(code) == {
        *("clasp/__init__.py", "configs/config.yaml", "scripts/run.py", "README.md", ".gitignore", "snapshot.json")
    }
    record = json.loads((code / "snapshot.json").read_text())
    assert (record["commit"], record["dirty"]) == (git(checkout, "rev-parse", "HEAD").strip(), False)


def test_a_dirty_checkout_is_copied_with_its_changes(checkout: Path, tmp_path: Path) -> None:
    (checkout / "clasp" / "__init__.py").write_text("changed = 1\n")
    (checkout / "clasp" / "new.py").write_text("new = 1\n")
    (checkout / "README.md").unlink()
    code = snapshot.take(tmp_path / "sweep", checkout)
    assert (code / "clasp" / "__init__.py").read_text() == "changed = 1\n"
    assert (code / "clasp" / "new.py").exists()
    assert not (code / "README.md").exists()
    assert json.loads((code / "snapshot.json").read_text())["dirty"] is True


def test_outside_of_a_checkout_the_project_is_copied(root: Path, tmp_path: Path) -> None:
    code = snapshot.take(tmp_path / "sweep", root)
    assert names(code) == {"clasp/__init__.py", "configs/config.yaml", "snapshot.json"}
    assert json.loads((code / "snapshot.json").read_text())["commit"] is None


def test_a_snapshot_of_a_snapshot_has_the_same_commit(checkout: Path, tmp_path: Path) -> None:
    first = snapshot.take(tmp_path / "one", checkout)
    second = snapshot.take(tmp_path / "two", first)
    submitted = provenance.code_version(checkout)
    assert provenance.code_version(first) == provenance.code_version(second) == submitted != (None, None)


def test_a_process_imports_the_submitted_code_not_later_changes(checkout: Path, tmp_path: Path) -> None:
    (checkout / "clasp" / "__init__.py").write_text("version = 'submitted'\n")
    (checkout / "clasp" / "__main__.py").write_text("from clasp import version\nprint(version)\n")
    code = snapshot.take(tmp_path / "sweep", checkout)
    (checkout / "clasp" / "__init__.py").write_text("version = 'changed since'\n")
    shown = subprocess.run(
        [sys.executable, "-m", "clasp"],
        env=importing(code),
        capture_output=True,
        text=True,
        check=True,
        cwd=checkout,
    )
    assert shown.stdout.strip() == "submitted", "before the working directory and the installed package"


def test_cells_computed_in_a_snapshot_name_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / provenance.SNAPSHOT).write_text('{"commit": "abc", "dirty": true}')
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "clasp" / "evaluation" / "provenance.py"))
    provenance._own_version.cache_clear()
    try:
        assert provenance._own_version() == ("abc", True)
    finally:
        provenance._own_version.cache_clear()
