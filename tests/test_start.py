"""What starts fast: the package, ``--help``, and every error that needs no model.

What is imported says so on any machine. Seconds are the processor's, which other processes hardly change, and have
wide margins.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
HEAVY = frozenset(
    [
        *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "sentence_transformers"),
        *("lmms_eval", "datasets", "PIL", "wandb"),
        *("pandas", "matplotlib", "scipy", "sklearn"),
    ]
)
"""Packages that a script imports only for what it is asked to do; each takes a third of a second or more."""
GOAL_S = 3.0
"""Processor seconds in which help and errors must be there; one is usual."""

CHILD = """
import json, runpy, sys, time
sys.argv = sys.argv[1:]
status = 0
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stopped:
    status = stopped.code or 0
packages = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps({"status": status, "seconds": time.process_time(), "packages": packages}))
"""


@dataclass(frozen=True)
class Ran:
    """A script that has ended: exit code, processor seconds, what it had imported, what it said."""

    status: int
    seconds: float
    packages: frozenset[str]
    out: str
    err: str


def python(folder: Path, code: str, *arguments: str) -> Ran:
    """Runs code whose last line of output tells how it went."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder, timeout=300, check=True
    )
    out, _, told = done.stdout.rstrip().rpartition("\n")
    values = json.loads(told)
    return Ran(values["status"], values["seconds"], frozenset(values["packages"]), out, done.stderr)


def run(folder: Path, script: str, *arguments: str) -> Ran:
    return python(folder, CHILD, str(SCRIPTS / script), *arguments)


def test_the_package_itself_imports_nothing(tmp_path: Path) -> None:
    """And its names torch alone; ``load`` asks for transformers when it is called."""
    code = """
import json, sys, time
before = set(sys.modules)
import clasp
clasp.__version__, dir(clasp)
own = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
import torch
started = time.process_time()
from clasp import *
print(json.dumps({"status": 0, "seconds": time.process_time() - started, "packages":
    [f"alone: {name}" for name in own] + [name.partition(".")[0] for name in sys.modules]}))
"""
    ran = python(tmp_path, code)
    assert {name for name in ran.packages if name.startswith("alone: ")} == {"alone: clasp"}
    assert ran.packages & HEAVY <= {"torch"}
    assert ran.seconds < 1.0  # the goal, beyond torch; a tenth of it is usual


@pytest.mark.parametrize("script", ["run.py", "plan.py", "prefetch.py", "calibrate.py", "retention.py"])
def test_help_of_what_hydra_composes(tmp_path: Path, script: str) -> None:
    ran = run(tmp_path, script, "--help")
    assert (ran.status, ran.packages & HEAVY) == (0, frozenset())
    assert "benchmarks" in ran.out
    assert ran.seconds < GOAL_S


@pytest.mark.parametrize(
    "script",
    [
        *("audit.py", "bench.py", "bench_harness.py", "demo.py", "gpu_check.py", "judge.py", "report.py", "status.py"),
        *("score_tiny.py", "submission.py", "train_tiny.py"),
    ],
)
def test_help_and_bad_arguments_of_the_others(tmp_path: Path, script: str) -> None:
    ran = run(tmp_path, script, "--help")
    assert (ran.status, ran.packages & HEAVY) == (0, frozenset())
    assert f"python scripts/{script}" in ran.out or f"clasp-eval {script.removesuffix('.py')}" in ran.out
    ran = run(tmp_path, script, "nosuch=1")
    assert (ran.status, ran.packages & HEAVY, ran.out) == (2, frozenset(), "")
    assert ran.err.startswith("error: unknown key 'nosuch': use one of ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=nonsense"], "unknown method 'nonsense'"),
        (["tokens=-3"], "tokens=-3 is below 1"),
        (["tokens=64", "benchmarks.names=[gqaa]"], "unknown benchmark 'gqaa'"),
    ],
)
def test_bad_input_imports_nothing_of_a_model(tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = run(tmp_path, "run.py", *arguments)
    assert (ran.status, ran.packages & HEAVY) == (2, frozenset())
    assert f"error: {message}" in ran.err
    assert ran.seconds < GOAL_S
    assert not (tmp_path / "results" / "cells").exists()


def test_what_a_method_refuses_takes_torch_alone(tmp_path: Path) -> None:
    """Methods are made of tensors, so that their own checks cost torch; a model's classes and lmms-eval they do not."""
    ran = run(tmp_path, "run.py", "tokens=20", "method.stage_layers=[3,32]")
    assert (ran.status, ran.packages & HEAVY) == (2, {"torch"})
    assert "error: stage layer 32 is outside the decoder" in ran.err
