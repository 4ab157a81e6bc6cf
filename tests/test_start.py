"""The package, ``--help`` and errors that need no model start fast.

The imported packages show this on any machine. Times are CPU times, which other processes hardly change, with wide
margins.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
HEAVY = frozenset(
    [
        *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "sentence_transformers"),
        *("lmms_eval", "datasets", "PIL", "wandb"),
        *("pandas", "matplotlib", "scipy", "sklearn"),
    ]
)
"""Packages that scripts import only when needed; each takes a third of a second or more."""
GOAL_S = 3.0
"""CPU seconds allowed for help and errors; one is usual."""

CHILD = """
import json, runpy, sys, time
shown = sys.stdout, sys.stderr
for number, arguments in enumerate(json.loads(sys.argv[1])):
    sys.argv = arguments
    sys.stdout, sys.stderr = open(f"{number}.out", "w"), open(f"{number}.err", "w")
    status = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        status = stopped.code or 0
    sys.stdout.flush(), sys.stderr.flush()
    sys.stdout, sys.stderr = shown
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps({"status": status, "seconds": time.process_time(), "packages": packages}))
"""
"""Runs scripts in sequence in one process; the imports of each show in its own line of output and all later ones."""


def python(folder: Path, code: str, *arguments: str) -> list[dict[str, Any]]:
    """Runs code that prints one JSON object per line; returns them."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def run(folder: Path, *calls: tuple[str, ...]) -> list[SimpleNamespace]:
    """Runs scripts with their arguments: exit code, CPU seconds and heavy imports of the process so far, output."""
    reports = python(folder, CHILD, json.dumps([[str(SCRIPTS / script), *words] for script, *words in calls]))
    for number, ran in enumerate(reports):
        ran |= {stream: (folder / f"{number}.{stream}").read_text(encoding="utf-8") for stream in ("out", "err")}
        ran["heavy"] = HEAVY.intersection(ran.pop("packages"))
    return [SimpleNamespace(**ran) for ran in reports]


IMPORTS = """
import json, sys, time
before = set(sys.modules)

def told(*names):
    started = time.process_time()
    for name in names:
        __import__(name)
    added = sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
    print(json.dumps({"packages": added, "modules": sorted(sys.modules), "seconds": time.process_time() - started}))

told("clasp")
import clasp
clasp.__version__, dir(clasp)
told("clasp.methods", "clasp.budget", "clasp.categories", "clasp.methods.clasp.policy")
assert clasp.methods.METHODS
told("clasp.tiny.benchmarks")
import torch
started = time.process_time()
from clasp import *
took = time.process_time() - started
print(json.dumps({"packages": [name.partition(".")[0] for name in sys.modules], "seconds": took}))
told("clasp.evaluation.runner")
"""


def test_what_imports_what(tmp_path: Path) -> None:
    """The package imports nothing itself, its names only torch; ``load`` imports transformers when called."""
    package, listed, world, names, runner = python(tmp_path, IMPORTS)
    assert package["packages"] == ["clasp"]
    assert listed["packages"] == ["clasp"]
    assert "torch" not in world["packages"]
    assert HEAVY.intersection(names["packages"]) <= {"torch", *world["packages"]}
    assert names["seconds"] < 1.0  # the goal, beyond torch; a tenth of it is usual
    assert not [name for name in runner["modules"] if name.startswith("clasp.launch")], "one process needs no cluster"


COMPOSED = ("run.py", "plan.py", "prefetch.py", "calibrate.py", "retention.py")
"""Scripts with Hydra."""
OTHERS = (
    *("audit.py", "bench.py", "bench_harness.py", "demo.py", "gpu_check.py", "judge.py", "report.py", "status.py"),
    *("score_tiny.py", "submission.py", "train_tiny.py"),
)


def test_help_of_what_hydra_composes(tmp_path: Path) -> None:
    found = run(tmp_path, *((script, "--help") for script in COMPOSED))
    for script, ran in zip(COMPOSED, found, strict=True):
        assert (ran.status, ran.heavy) == (0, set()), script
        assert "benchmarks" in ran.out
    assert found[0].seconds < GOAL_S
    for word in ("method: cdpruner, clasp, dart, divprune, downsample", "experiment=tiny_main", "paper8", "limit"):
        assert word in found[0].out


def test_help_and_bad_arguments_of_the_others(tmp_path: Path) -> None:
    found = run(tmp_path, *((script, word) for script in OTHERS for word in ("--help", "nosuch=1")))
    for script, ran, refused in zip(OTHERS, found[::2], found[1::2], strict=True):
        assert (ran.status, ran.heavy) == (0, set()), script
        assert f"python scripts/{script}" in ran.out or f"clasp-eval {script.removesuffix('.py')}" in ran.out
        assert (refused.status, refused.heavy, refused.out) == (2, set(), ""), script
        assert refused.err.startswith("error: unknown key 'nosuch': use one of ")


def test_bad_input_imports_nothing_of_a_model(tmp_path: Path) -> None:
    """Checks by a method itself may import torch, but no model classes and no lmms-eval."""
    refused = {
        "unknown method 'nonsense'": ("method=nonsense",),
        "tokens=-3 is below 1": ("tokens=-3",),
        "unknown benchmark 'gqaa'": ("tokens=64", "benchmarks.names=[gqaa]"),
        "stage layer 32 is outside the decoder": ("tokens=20", "method.stage_layers=[3,32]"),
    }
    *found, last = run(tmp_path, *(("run.py", *words) for words in refused.values()))
    for ran, message in zip([*found, last], refused, strict=True):
        assert ran.status == 2
        assert f"error: {message}" in ran.err
        assert ran.heavy == ({"torch"} if ran is last else set())
    assert found[0].seconds < GOAL_S
    assert not (tmp_path / "results" / "cells").exists()
