"""Configurations, environments and names from others must not run programs, destroy files or make formulas.

Each attack is real: it works if its defence is removed.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import call

from clasp.cli import jobs
from clasp.launch import snapshot
from clasp.report.table import records_csv
from clasp.results import provenance

KEPT = "what the user wrote\n"
WORLD = ["tokens=64", "limit=2", "benchmarks.names=[tiny_textvqa]", "wandb.enabled=false"]

HYDRA = {
    "hydra.job.env_set.GIT_CONFIG_COUNT": "1",
    "hydra.job.env_copy": ["HOME"],
    "hydra.job.chdir": True,
    "hydra.job.name": "../../../victim",
    "hydra.output_subdir": "../../../made",
    "hydra.job_logging.handlers.file": {"class": "logging.FileHandler", "filename": "{victim}", "mode": "w"},
    "hydra.hydra_logging.handlers.file": {"class": "logging.FileHandler", "filename": "{victim}", "mode": "w"},
    "hydra.callbacks.more": {"_target_": "logging.FileHandler", "filename": "{victim}", "mode": "w"},
    "hydra.run.dir": "{made}",
    "hydra.sweep.dir": "{made}",
    "hydra.sweep.subdir": "../../../made",
    "launcher.setup": ["touch {made}"],
    "launcher.sbatch": {"output": "{victim}"},
    "hydra.launcher": {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"},
}
"""Key -> a value that makes Hydra or a launcher run a program or write outside of the results."""


def nested(key: str, value: object) -> dict[str, object]:
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize(
    ("key", "way"),
    [
        *((key, "searchpath") for key in HYDRA),
        *((key, way) for key in ("hydra.job.name", "hydra.run.dir") for way in ("command line", "config-dir")),
    ],
)
def test_a_configuration_runs_nothing_and_writes_nowhere_else(
    key: str,
    way: str,
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    victim, made, shared = (tmp_path / name for name in ("victim.log", "made", "shared"))
    victim.write_text(KEPT)
    text = json.dumps(nested(key, HYDRA[key])).replace("{victim}", str(victim)).replace("{made}", str(made))
    arguments = [*WORLD, f"paths.data={data_root}", *(["launcher=slurm"] if key.startswith("launcher.") else [])]
    arguments += ["-m"] if "sweep" in key else []
    if way == "command line":
        arguments.append(f"++{key}={str(HYDRA[key]).format(made=made)}")
    else:
        (shared / "experiment").mkdir(parents=True)
        (shared / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{text}")  # JSON is YAML
        there = [f"hydra.searchpath=[file://{shared}]"] if way == "searchpath" else ["--config-dir", str(shared)]
        arguments += ["experiment=evil", *there]
    before = dict(os.environ)
    assert call(monkeypatch, tmp_path / "work", *arguments) == jobs.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("error: ") == 1, error
    assert ".".join(key.split(".")[:2]) in error, error
    assert victim.read_text() == KEPT
    assert not made.exists()
    assert dict(os.environ) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"victim.log", "shared", "work"}


def test_folders_below_the_results_and_hydras_own_logs_may_be_chosen(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["hydra.run.dir=results/logs/mine", "hydra/job_logging=none", "hydra.verbose=false"]
    monkeypatch.setattr(jobs, "_run", lambda *_: 0)
    assert call(monkeypatch, tmp_path / "work", *WORLD, f"paths.data={data_root}", *chosen) == 0
    assert (tmp_path / "work" / "results" / "logs" / "mine").is_dir()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("clasp/a.py", "configs/a.yaml", "scripts/a.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("x = 1\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (root / "clasp" / "a.py").write_text("x = 2\n")
    return root


Plant = Callable[[Path, Path, pytest.MonkeyPatch], object]


def _variables(**values: str) -> Plant:
    """Sets variables of the environment; ``{}`` stands for the program."""
    return lambda root, program, patch: [patch.setenv(key, value.format(program)) for key, value in values.items()]


def _setting(key: str) -> Plant:
    """Sets the program in the repository."""
    return lambda root, program, _: subprocess.run(["git", "-C", str(root), "config", key, str(program)], check=True)


def _hook(root: Path, program: Path, _: pytest.MonkeyPatch) -> None:
    hook = root / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_bytes(program.read_bytes())
    hook.chmod(0o755)
    os.utime(root / "configs" / "a.yaml")  # so that git would refresh its index


PLANTS = {
    "monitor": _variables(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="core.fsmonitor", GIT_CONFIG_VALUE_0="{}"),
    "difference": _variables(GIT_EXTERNAL_DIFF="{}"),
    "parameters": _variables(GIT_CONFIG_PARAMETERS="'core.fsmonitor'='{}'"),
    "other repository": _variables(GIT_DIR="{}/elsewhere"),
    "repository's monitor": _setting("core.fsmonitor"),
    "repository's difference": _setting("diff.external"),
    "repository's hook": _hook,
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_git_starts_no_program_that_environment_or_checkout_name(
    plant: Plant, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And commit, state and snapshot are those of the checkout."""
    commit = next((checkout / ".git" / "refs" / "heads").iterdir()).read_text()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/marked\n")
    program.chmod(0o755)
    plant(checkout, program, monkeypatch)
    assert provenance.git(checkout, "rev-parse", "HEAD") == commit
    assert "clasp/a.py" in (provenance.git(checkout, "status", "--porcelain") or "")
    code = snapshot.take(tmp_path / "sweep", checkout)
    assert (code / "clasp" / "a.py").read_text() == "x = 2\n"
    assert not (tmp_path / "marked").exists()


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", " =1", "-"])
def test_texts_do_not_become_formulas_in_a_spreadsheet(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(records_csv([{"row": text}])))
    assert row["row"] == f"'{text}"


@pytest.mark.parametrize("value", [-0.5, 12, "-0.5", "+1e-3", "none", "", None, "clasp-x", "a=b"])
def test_numbers_and_ordinary_texts_stay(value: object) -> None:
    (row,) = csv.DictReader(io.StringIO(records_csv([{"row": value, "last": 1}])))
    assert row["row"] == ("" if value is None else str(value))
