"""Configurations, environments and names from others must not run programs, destroy files or make formulas.

Each attack is real: it works if its defence is removed.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
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

SHELL = ("launcher.",)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    victim = tmp_path / "victim.log"
    victim.write_text(KEPT)
    return {"victim": str(victim), "made": str(tmp_path / "made")}


def filled(value: object, places: dict[str, str]) -> object:
    if isinstance(value, dict):
        return {key: filled(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, places) for item in value]
    return value.format(**places) if isinstance(value, str) else value


def nested(key: str, value: object) -> dict[str, object]:
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def as_yaml(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


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
    places: dict[str, str],
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = filled(HYDRA[key], places)
    launcher = key.startswith(SHELL)
    arguments = [*WORLD, f"paths.data={data_root}", *(["launcher=slurm"] if launcher else [])]
    arguments += ["-m"] if "sweep" in key else []
    if way == "command line":
        arguments.append(f"++{key}={as_yaml(value)}")
    else:
        shared = tmp_path / "shared" / "experiment" / "evil.yaml"
        shared.parent.mkdir(parents=True)
        shared.write_text(f"# @package _global_\n{yaml.safe_dump(nested(key, value))}")
        where = shared.parent.parent
        arguments += ["experiment=evil", *_from(way, where)]
    before = dict(os.environ)
    assert call(monkeypatch, tmp_path / "work", *arguments) == jobs.BAD_INPUT
    error = capsys.readouterr().err
    named = [part for part in (key, ".".join(key.split(".")[:3]), ".".join(key.split(".")[:2])) if part in error]
    assert error.count("error: ") == 1, error
    assert named, error
    assert Path(places["victim"]).read_text() == KEPT
    assert not Path(places["made"]).exists()
    assert dict(os.environ) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"victim.log", "shared", "work"}


def _from(way: str, folder: Path) -> list[str]:
    return [f"hydra.searchpath=[file://{folder}]"] if way == "searchpath" else ["--config-dir", str(folder)]


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


def _variables(program: Path, root: Path) -> dict[str, dict[str, str]]:
    def configured(key: str) -> dict[str, str]:
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": str(program)}

    return {
        "fsmonitor": configured("core.fsmonitor"),
        "external": {"GIT_EXTERNAL_DIFF": str(program)},
        "parameters": {"GIT_CONFIG_PARAMETERS": f"'core.fsmonitor'='{program}'"},
        "other repository": {"GIT_DIR": str(root / "elsewhere")},
    }


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that creates the file ``marked``."""
    made = tmp_path / "program"
    made.write_text(f"#!/bin/sh\ntouch {tmp_path}/marked\n")
    made.chmod(0o755)
    return made


def _in_repository(root: Path, program: Path, key: str) -> None:
    subprocess.run(["git", "-C", str(root), "config", key, str(program)], check=True)


def _hook(root: Path, program: Path) -> None:
    hook = root / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_bytes(program.read_bytes())
    hook.chmod(0o755)
    os.utime(root / "configs" / "a.yaml")  # so that git would refresh its index


@pytest.mark.parametrize("attack", ["fsmonitor", "external", "parameters", "other repository"])
def test_environment_variables_do_not_reach_git(
    attack: str, checkout: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in _variables(program, tmp_path)[attack].items():
        monkeypatch.setenv(name, value)
    _asked(checkout, tmp_path)


@pytest.mark.parametrize(
    "plant",
    [
        lambda root, program: _in_repository(root, program, "core.fsmonitor"),
        lambda root, program: _in_repository(root, program, "diff.external"),
        _hook,
    ],
    ids=["fsmonitor", "external", "hook"],
)
def test_a_checkouts_own_programs_are_not_started(
    plant: Callable[[Path, Path], None], checkout: Path, program: Path, tmp_path: Path
) -> None:
    plant(checkout, program)
    _asked(checkout, tmp_path)


def _asked(checkout: Path, tmp_path: Path) -> None:
    """Checks commit, state and snapshot of the checkout, and that the program did not run."""
    head = (checkout / ".git" / "refs" / "heads").iterdir()
    commit = next(head).read_text()
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
