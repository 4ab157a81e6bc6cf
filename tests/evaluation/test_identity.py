"""A signature changes exactly when a score can: one table of changes (``signature_changes.py``), both ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT
from signature_changes import CHANGES

pytestmark = pytest.mark.xdist_group("identity")  # one worker makes all the changes
ROWS = 4
"""Questions of the embedded benchmarks in the copy."""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Name of each change -> the cells whose signature it changes."""
    root = tmp_path_factory.mktemp("identity")
    for name in ("clasp", "configs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("*.pyc"))
    few = root / "clasp" / "tiny" / "benchmarks.py"
    few.write_text(few.read_text().replace("= 480\n", f"= {ROWS}\n"))
    variables = {**os.environ, "PYTHONPATH": str(root), "XDG_CACHE_HOME": str(root.with_name("cache"))}
    program = [sys.executable, str(Path(__file__).with_name("signature_changes.py"))]
    done = subprocess.run(program, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CHANGES)
def test_a_signature_changes_exactly_when_a_score_can(changed: dict[str, list[str]], name: str) -> None:
    assert set(changed[name]) == CHANGES[name][1]


def test_every_file_on_the_way_to_a_score_is_signed_or_says_why_not() -> None:
    from clasp.evaluation import identity
    from clasp.fingerprint import _closure

    package = Path(identity.__file__).parents[1]
    signed = {*identity.EVERY_QUESTION, *identity.VIDEO_QUESTIONS}
    assert all((package / name).exists() for name in (*signed, *identity.UNSIGNED))
    tasks = [f"evaluation/tasks/{path.name}" for path in (package / "evaluation/tasks").glob("[a-z]*.py")]
    asked = [*signed, *tasks, "evaluation/session.py"]
    reached = _closure(f"clasp.{name.removesuffix('.py').replace('/', '.')}" for name in asked)
    files = {f"{name.removeprefix('clasp.').replace('.', '/')}.py" for name in reached}
    rooms = ("evaluation/", "results/", "launch/", "cli/")
    ours = {name for name in files if name.startswith(rooms) and (package / name).exists()} - signed
    unexplained = {name for name in ours if not any(f"{name}/".startswith(f"{one}/") for one in identity.UNSIGNED)}
    assert not unexplained
