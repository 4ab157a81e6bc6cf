"""Launchers before anything is submitted: what they refuse, what Hydra gets, what this machine offers."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from clasp.cli import jobs as cli
from clasp.config import LauncherConfig, RunConfig
from clasp.launch import job_states, machine, packs, snapshot
from clasp.launch import sweep as launch
from clasp.launch.submit import composing, override_value
from clasp.strict import ConfigError

RUN = ("tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["launcher=slurm", "launcher.cells_per_job=0"], ["launcher.cells_per_job=0", "at least 1"]),
        (["launcher=local", "launcher.processes=0"], ["launcher.processes=0", "at least 1"]),
        (["launcher=local", "launcher.cores_per_process=0"], ["launcher.cores_per_process=0", "at least 1"]),
        (["launcher=slurm", "launcher.memory_gb=0"], ["launcher.memory_gb=0", "positive"]),
        (["launcher=slurm", "launcher.processes=2", "launcher.gpus=1"], ["launcher.processes=2", "launcher.gpus=1"]),
        (["launcher=slurm", "launcher.minutes=1"], ["launcher.signal_s=120", "launcher.minutes=1"]),
        (["launcher=slurm", "launcher.cpus=many"], ["launcher.cpus='many'", "whole number"]),
    ],
    ids=str,
)
def test_what_a_launcher_cannot_honour_is_an_error(
    configured: Callable[..., RunConfig], overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(*RUN, *overrides)
    for word in words:
        assert word in str(raised.value)


def test_slurm_without_sbatch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"launcher=slurm needs sbatch, .*launcher=local"):
        machine.check(LauncherConfig("slurm"), "auto")


def test_a_sweep_has_one_launcher(configured: Callable[..., RunConfig]) -> None:
    from clasp.evaluation.plan import plan

    asked = []
    for parallelism in (1, 2):
        config = configured(*RUN, "launcher=slurm", f"launcher.array_parallelism={parallelism}")
        asked.append(launch.Request({}, config, plan(config)))
    with pytest.raises(ConfigError, match="different launchers"):
        launch.check(asked)


def test_site_settings_come_from_a_file_of_their_own_and_yield_to_the_command_line(
    tmp_path: Path, data_root: Path
) -> None:
    from hydra import compose, initialize_config_dir

    configs = shutil.copytree(snapshot.ROOT / "configs", tmp_path / "configs")
    (configs / "launcher" / "site.yaml").write_text("launcher:\n  partition: gpu\n  minutes: 7\n  signal_s: 60\n")
    with initialize_config_dir(str(configs)):
        launcher = compose("config", ["launcher=slurm", "launcher.minutes=9"]).launcher
    assert (launcher.partition, launcher.minutes, launcher.signal_s) == ("gpu", 9, 60)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9**9)
    | st.text(st.characters(codec="ascii", exclude_characters="\n\r$")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), inner),
    max_leaves=6,
)


@given(plain)
@example("'\\0")
@example("a\\\\'b\\")
def test_hydra_reads_back_what_it_gets(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(f"launcher.x={override_value(value)}").value()
    assert _unquoted(parsed) == value


def _unquoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _unquoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    return value.text if hasattr(value, "text") else value


def test_jobs_are_composed_here_and_the_queues_own_overrides_are_kept_for_it() -> None:
    argv = ["run.py", "-m", "method=clasp,fastv", "launcher=slurm", "hydra.launcher.comment=x", "+hydra.launcher.y=1"]
    typed = list(argv)
    with composing(argv) as own:
        assert own == ["hydra.launcher.comment=x", "+hydra.launcher.y=1"]
        assert argv == ["run.py", "-m", "method=clasp,fastv", "launcher=slurm", "hydra/launcher=basic"]
        assert os.environ["CLASP_COMMAND"] == " ".join(typed), "cells are to say what was typed"
    assert argv == typed
    assert "CLASP_COMMAND" not in os.environ
    for left in (
        ["run.py", "tokens=64"],
        ["run.py", "-m", "hydra/launcher=joblib"],
        ["run.py", "-m", "launcher.pack=0"],
    ):
        argv = list(left)
        with composing(argv) as own:
            assert (argv, own) == (left, [])


def test_slots_share_out_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    shown = [slot["CUDA_VISIBLE_DEVICES"] for slot in machine.slots(LauncherConfig("local"), "auto") or ()]
    assert shown == ["4", "5", "7"], "one process a GPU"
    pairs = machine.slots(LauncherConfig("local", processes=2), "cuda") or ()
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in pairs] == ["4,5"], "whole jobs alone"
    with pytest.raises(ConfigError, match=r"launcher.processes=4, but this machine shows 3 GPUs"):
        machine.check(LauncherConfig("local", processes=4), "auto")
    for own, count, threads in ((1, 8, "1"), (3, 2, "3"), (99, 1, "8")):
        slots = machine.slots(LauncherConfig("local", cores_per_process=own), "cpu") or ()
        assert (len(slots), {slot["OMP_NUM_THREADS"] for slot in slots}) == (count, {threads})
    assert machine.slots(LauncherConfig("slurm"), "auto") is None, "a queue's are its own business"


def test_the_packs_of_a_sweep_hold_what_is_missing_and_where_it_comes_from(
    composed_run: Callable[..., dict[str, Any]],
    configured: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from clasp.evaluation.plan import plan

    monkeypatch.setattr(snapshot, "take", lambda sweep: sweep / "code")
    asked = []
    for method in ("random", "fastv"):
        overrides = (*RUN[1:], f"method={method}", "grid.tokens=[64,96]", "launcher=slurm", "launcher.cells_per_job=3")
        config = configured(*overrides)
        asked.append(launch.Request(composed_run(*overrides), config, plan(config)))
    sweep = launch.prepare(asked, launch.missing([*asked, *asked]), "run.py -m method=random,fastv")
    assert sweep.numbers == (0, 1)
    files = [packs.read(packs.path(sweep.folder, number)) for number in sweep.numbers]
    wanted = sorted(cell.signature for one in asked for cell in one.plan.cells)
    assert sorted(signature for file in files for signature in file.cells) == wanted, (
        "each once, though asked for twice"
    )
    assert {file.environment["CLASP_COMMAND"] for file in files} == {"run.py -m method=random,fastv"}
    assert all(file.environment["PYTHONPATH"].startswith(str(sweep.folder / "code")) for file in files)
    assert json.loads((sweep.folder / "sweep.json").read_text())["cells"] == 4


def test_processes_on_this_machine_are_seen_as_long_as_they_run(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = tmp_path / "jobs" / str(process.pid)
    folder.mkdir(parents=True)
    (folder / f"{process.pid}_submitted.pkl").touch()
    assert job_states.states(tmp_path, job_states.LOCAL) == {"running": 1}
    process.kill()
    for _ in range(1000):  # it ends, and is not collected yet
        if not job_states.states(tmp_path, job_states.LOCAL):
            break
    assert job_states.states(tmp_path, job_states.LOCAL) == {}
    process.wait()
    assert job_states.states(tmp_path, job_states.LOCAL) == {}


def test_bad_input_anywhere_in_a_sweep_is_told_before_anything_is_submitted(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = snapshot.ROOT / "scripts" / "run.py"
    arguments = ["-m", "method=random", "tokens=64,999", *RUN[1:], "launcher=local", f"paths.data={data_root}"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.setattr(cli, "_statuses", [])
    with pytest.raises(SystemExit) as exited:
        runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().err
    assert exited.value.code == cli.BAD_INPUT
    assert "tokens=999 is more than the 576 visual tokens" in shown
    assert "nothing was submitted" in shown
    assert not (tmp_path / "results" / "sweeps").exists()
