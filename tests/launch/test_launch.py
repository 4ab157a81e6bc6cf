"""Launchers: refused settings, slots on this machine, packs of a sweep, submitting and waiting."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from command_line import call

from clasp.cli import jobs as cli
from clasp.config import LauncherConfig, RunConfig
from clasp.evaluation.plan import Plan, plan
from clasp.launch import machine, packs, snapshot
from clasp.launch import sweep as launch
from clasp.launch.packs import PackFile
from clasp.launch.submit import Sweep, submitted, wait
from clasp.strict import ConfigError

RUN = ("tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launcher=slurm", "launcher.cells_per_job=0"], "launcher.cells_per_job=0 .* at least 1"),
        (["launcher=slurm", "launcher.memory_gb=0"], "launcher.memory_gb=0 .* positive"),
        (["launcher=slurm", "launcher.minutes=1"], "launcher.signal_s=120 .* launcher.minutes=1"),
        (["launcher=slurm", "+launcher.processes=2"], "unknown key 'processes' in launcher: .*cells_per_job"),
        (["launcher=slurm", 'launcher.partition="gpu\nrm -r ~"'], "launcher.partition=.* one line"),
    ],
    ids=str,
)
def test_bad_launcher_settings_are_errors(
    configured: Callable[..., RunConfig], overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(*RUN, *overrides)


def test_slurm_without_sbatch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"launcher=slurm needs sbatch, .*launcher=local"):
        machine.check(LauncherConfig("slurm"))


def test_a_sweep_has_one_launcher(configured: Callable[..., RunConfig]) -> None:
    configs = [configured(*RUN, "launcher=slurm", f"launcher.array_parallelism={count}") for count in (1, 2)]
    with pytest.raises(ConfigError, match="different launchers"):
        launch.check([launch.Request({}, config, cast(Plan, None)) for config in configs])


def test_the_command_line_overrides_the_sites_settings(tmp_path: Path, data_root: Path) -> None:
    from hydra import compose, initialize_config_dir

    configs = shutil.copytree(snapshot.ROOT / "configs", tmp_path / "configs")
    (configs / "launcher" / "site.yaml").write_text("launcher:\n  partition: gpu\n  minutes: 7\n  signal_s: 60\n")
    with initialize_config_dir(str(configs)):
        launcher = compose("config", ["launcher=slurm", "launcher.minutes=9"]).launcher
    assert (launcher.partition, launcher.minutes, launcher.signal_s) == ("gpu", 9, 60)


def test_slots_divide_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    for device in ("auto", "cuda"):
        slots = machine.slots(LauncherConfig("local"), device)
        assert slots == [{"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "2"} for gpu in "457"], "one process a GPU"
    for own, count, threads in ((1, 8, "1"), (3, 2, "3"), (99, 1, "8")):
        slots = machine.slots(LauncherConfig("local", cores_per_process=own), "cpu")
        assert slots == [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}] * count
    assert machine.slots(LauncherConfig("slurm"), "auto") is None, "SLURM assigns its own"


@pytest.fixture
def asked(
    composed_run: Callable[..., dict[str, Any]], configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> list[launch.Request]:
    """Three methods, each with two cells."""
    monkeypatch.setattr(snapshot, "take", lambda sweep: sweep / "code")
    found = []
    for method in ("random", "fastv", "divprune"):
        overrides = (*RUN[1:], f"method={method}", "grid.tokens=[64,96]", "launcher=slurm", "launcher.cells_per_job=4")
        config = configured(*overrides)
        found.append(launch.Request(composed_run(*overrides), config, plan(config)))
    return found


def prepared(asked: list[launch.Request]) -> tuple[Sweep, list[PackFile]]:
    """A sweep, and all of its packs."""
    sweep = launch.prepare(asked, launch.missing([*asked, *asked]), "run.py -m method=random,fastv,divprune")
    count = len(list((sweep.folder / "packs").iterdir()))
    return sweep, [packs.read(packs.path(sweep.folder, number)) for number in range(count)]


def test_the_packs_of_a_sweep_hold_its_missing_cells_and_their_environment(asked: list[launch.Request]) -> None:
    sweep, files = prepared(asked)
    assert sweep.numbers == (0, 1)
    wanted = sorted(cell.signature for one in asked for cell in one.plan.cells)
    assert sorted(signature for file in files for signature in file.cells) == wanted, "each once"
    assert {file.environment["CLASP_COMMAND"] for file in files} == {"run.py -m method=random,fastv,divprune"}
    assert all(file.environment["PYTHONPATH"].startswith(str(sweep.folder / "code")) for file in files)
    assert json.loads((sweep.folder / "sweep.json").read_text())["cells"] == 6


def test_each_gpu_here_has_a_job_that_runs_one_pack_after_the_other(
    asked: list[launch.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    for number, dtype in enumerate(("float32", "float16", "bfloat16")):  # each in a pack of its own
        config = replace(asked[number].config, device="auto", dtype=dtype, launcher=LauncherConfig("local"))
        asked[number] = replace(asked[number], config=config)
    sweep, files = prepared(asked)
    assert sweep.numbers == (0, 1)
    assert [file.environment["CUDA_VISIBLE_DEVICES"] for file in files] == ["4", "7", "4"]
    assert [file.then for file in files] == [2, None, None]


def sweep_of(folder: Path, kind: Literal["local", "slurm"], script: str) -> Sweep:
    """A sweep whose snapshot has a script in place of the worker."""
    worker = folder / "code" / "clasp" / "launch" / "worker.py"
    worker.parent.mkdir(parents=True)
    for package in (worker.parent, worker.parent.parent):
        (package / "__init__.py").touch()
    worker.write_text(script)
    return Sweep("mine", folder, folder / "results", LauncherConfig(kind), (0, 1), {"a" * 24: 3})


WAITING = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    Path(sys.argv[1], f"stopped{sys.argv[2]}").touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1], f"started{sys.argv[2]}").touch()
time.sleep(100)
"""


def test_local_processes_run_the_snapshot_and_stop_on_an_interrupt(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "local", WAITING)
    with contextlib.suppress(KeyboardInterrupt), submitted(sweep) as jobs:
        for _ in range(3000):
            if len(list(tmp_path.glob("started*"))) == 2:
                break
            time.sleep(0.01)
        assert jobs.states() == {"running": 2}
        assert "2 processes started; look with: make status" in jobs.advice("make status", wait=True)
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.glob("stopped*")} == {"stopped0", "stopped1"}
    assert jobs.states() == {}

    failing = sweep_of(tmp_path / "failing", "local", "raise SystemExit(1)")
    with submitted(failing) as jobs:
        wait(failing, jobs)  # ends when all jobs have failed
    assert jobs.states() == {}


def test_a_queue_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    (programs / "srun").write_text("#!/bin/sh\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    refused = r"the jobs could not be submitted: sbatch: error: invalid partition"
    with pytest.raises(ConfigError, match=refused), submitted(sweep_of(tmp_path / "sweep", "slurm", "")):
        pass


def test_bad_input_in_a_sweep_is_reported_before_anything_is_submitted(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "method=random", "tokens=64,999", *RUN[1:], "launcher=local", f"paths.data={data_root}"]
    assert call(monkeypatch, tmp_path, *arguments) == cli.BAD_INPUT
    shown = capsys.readouterr().err
    assert "tokens=999 is more than the 576 visual tokens" in shown
    assert "nothing was submitted" in shown
    assert not (tmp_path / "results" / "sweeps").exists()
