"""The two calls of Hydra: the jobs that were typed, composed here, and its packs, handed to a queue. Torch-free."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clasp.config import LauncherConfig
from clasp.launch import job_states
from clasp.results.provenance import TYPED


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep that was written down and can be submitted.

    Args:
        folder: of the sweep.
        results: the results root.
        launcher: where it goes.
        numbers: of the packs that jobs begin with.
        missing: signatures of the cells to compute, and their questions.
    """

    folder: Path
    results: Path
    launcher: LauncherConfig
    numbers: tuple[int, ...]
    missing: Mapping[str, int]


@contextmanager
def composing(argv: list[str]) -> Iterator[list[str]]:
    """While Hydra composes the command line: its jobs stay here, whatever launcher computes their cells later.

    A launcher of Hydra's that was chosen by name (``hydra/launcher=...``) is left alone, and so is the second call.

    Args:
        argv: ``sys.argv``; as it was at the end.

    Yields:
        The overrides of ``hydra.launcher``, which are for the second call.
    """
    typed = list(argv)
    swept = any(word in ("-m", "--multirun") or word.startswith("hydra.mode=") for word in argv)
    mine = any(word.startswith(("hydra/launcher=", "launcher.pack=")) for word in argv)
    own = [] if mine else [word for word in argv[1:] if re.match(r"[+~]{0,2}hydra\.launcher\.", word)]
    argv[:] = [word for word in typed if word not in own] + (["hydra/launcher=basic"] if swept and not mine else [])
    changed = argv != typed and TYPED not in os.environ
    if changed:
        os.environ[TYPED] = " ".join([Path(typed[0]).name, *typed[1:]])
    try:
        yield own
    finally:
        argv[:] = typed
        if changed:
            del os.environ[TYPED]


@contextmanager
def submitted(sweep: Sweep, values: Mapping[str, Any], overrides: Sequence[str]) -> Iterator[Any]:
    """Hydra's second call, over the packs, in a process that runs the snapshot; stopped at the end if it still runs.

    Args:
        sweep: what :func:`prepare` made.
        values: of a configuration, whose ``launcher`` section the jobs get.
        overrides: of ``hydra.launcher``, as typed.
    """
    code = sweep.folder / "code"
    keys = {key: value for key, value in values["launcher"].items() if key not in ("kind", "pack")}
    arguments = [
        *["-m", f"launcher={sweep.launcher.kind}", f"name={values['name']}"],
        *[f"++launcher.{key}={override_value(value)}" for key, value in keys.items()],
        # a key that is null by default cannot be interpolated into what must be a mapping
        *([f"hydra.launcher.additional_parameters={override_value(keys['sbatch'])}"] if keys.get("sbatch") else []),
        *overrides,
        f"paths.results={override_value(str(sweep.results))}",  # below which Hydra's folder has to be
        f"hydra.sweep.dir={override_value(str(sweep.folder))}",
        "hydra.sweep.subdir=hydra/${hydra.job.num}",
        f"launcher.pack={','.join(map(str, sweep.numbers))}",
    ]
    environment = {**os.environ, "PYTHONPATH": python_path(code)}
    with (sweep.folder / "launcher.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "clasp.cli", "run", *arguments],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
    try:
        yield process
    except BaseException:
        if sweep.launcher.kind == job_states.LOCAL and process.poll() is None:  # its jobs are of this session
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            for _ in range(150):  # of 0.2 s: they release their locks and end by themselves
                if not job_states.states(sweep.folder, job_states.LOCAL):
                    break
                time.sleep(0.2)
        raise
    finally:
        if sweep.launcher.kind == job_states.SLURM and process.poll() is None:  # the jobs do not need it
            process.terminate()
            process.wait()


def refusal(sweep: Sweep) -> str:
    """Why nothing was submitted, from what the launcher said last."""
    lines = (sweep.folder / "launcher.log").read_text(encoding="utf-8", errors="replace").splitlines()
    reasons = [line.strip() for line in lines if line.startswith("sbatch: error:")] or [line for line in lines if line][
        -1:
    ]
    return f"the jobs could not be submitted: {'; '.join(dict.fromkeys(reasons))} (see {sweep.folder}/launcher.log)"


def override_value(value: Any) -> str:
    """A plain value as Hydra's command line takes it."""
    if isinstance(value, str):
        # Hydra reads a backslash as one unless a quote follows, the closing one included
        escaped = re.sub(r"(\\*)('|\Z)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), value)
        return f"'{escaped}'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{override_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(override_value, value)) + "]"
    return json.dumps(value)


def python_path(code: Path) -> str:
    """Before anything installed, an editable clasp included."""
    return os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
