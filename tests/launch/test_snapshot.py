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


def taken(sweep: Path, root: Path) -> tuple[Path, set[str], dict[str, object]]:
    """A snapshot's folder, the names of its files, and its record."""
    code = snapshot.take(sweep, root)
    names = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    return code, names, json.loads((code / "snapshot.json").read_text())


def test_a_checkout_is_copied_with_its_changes_and_names_its_commit(checkout: Path, tmp_path: Path) -> None:
    files = {"clasp/__init__.py", "configs/config.yaml", "scripts/run.py", "README.md", ".gitignore", "snapshot.json"}
    clean, names, record = taken(tmp_path / "clean", checkout)
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert (names, record["commit"], record["dirty"]) == (files, commit, False)
    assert provenance.code_version(clean) == (commit, False)
    again, _, _ = taken(tmp_path / "again", clean)
    assert provenance.code_version(again) == (commit, False), "a snapshot of a snapshot"

    (checkout / "clasp" / "__init__.py").write_text("changed = 1\n")
    (checkout / "clasp" / "new.py").write_text("new = 1\n")
    (checkout / "README.md").unlink()
    code, names, record = taken(tmp_path / "dirty", checkout)
    assert (names, record["dirty"]) == ((files | {"clasp/new.py"}) - {"README.md"}, True)
    assert (code / "clasp" / "__init__.py").read_text() == "changed = 1\n"


def test_outside_of_a_checkout_the_project_is_copied(root: Path, tmp_path: Path) -> None:
    _, names, record = taken(tmp_path / "sweep", root)
    assert names == {"clasp/__init__.py", "configs/config.yaml", "snapshot.json"}
    assert record["commit"] is None


def test_a_process_imports_the_submitted_code_not_later_changes(checkout: Path, tmp_path: Path) -> None:
    (checkout / "clasp" / "__init__.py").write_text("version = 'submitted'\n")
    (checkout / "clasp" / "__main__.py").write_text("from clasp import version\nprint(version)\n")
    code = snapshot.take(tmp_path / "sweep", checkout)
    (checkout / "clasp" / "__init__.py").write_text("version = 'changed since'\n")
    command = [sys.executable, "-m", "clasp"]
    shown = subprocess.run(command, env=importing(code), capture_output=True, text=True, check=True, cwd=checkout)
    assert shown.stdout.strip() == "submitted", "before the working directory and the installed package"


def test_cells_computed_in_a_snapshot_name_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / provenance.SNAPSHOT).write_text('{"commit": "abc", "dirty": true}')
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "clasp" / "evaluation" / "provenance.py"))
    provenance._own_version.cache_clear()
    try:
        assert provenance._own_version() == ("abc", True)
    finally:
        provenance._own_version.cache_clear()
