"""Checks environment variables that libraries read without a check of their own, before any library is imported.

A bad value would end in a traceback from inside a library. Torch-free.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from clasp.config import OWN_DATA, RunConfig
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.redact import redact_logs
from clasp.strict import ConfigError, shown

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

_COUNTS = {
    # accelerate, torch.distributed and lmms-eval: rank and number of processes, as launchers and MPI set them
    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), 1),
    **dict.fromkeys(("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"), 1),
    **dict.fromkeys(("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"), 1),
    **dict.fromkeys(("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"), 0),
    **dict.fromkeys(("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"), 0),
    "LOCAL_RANK": -1,  # which accelerate takes for "not launched"
    **dict.fromkeys(("MASTER_PORT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"), 1),
}
"""Variables that hold a whole number, and its minimum."""

_PRECISIONS = ("no", "fp16", "bf16", "fp8")
_FLAGS = ("y", "yes", "t", "true", "on", "1", "n", "no", "f", "false", "off", "0")
_FLAG_NAMES = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY", "FORK_LAUNCHED")
_FLAG_PREFIX = "ACCELERATE_USE_"
_PLUGINS = "LMMS_EVAL_PLUGINS"


def prepare_environment(config: RunConfig) -> None:
    """Sets what libraries read when they are imported: offline where model and questions are on this machine.

    Raises:
        ConfigError: a variable has a value that its library cannot read.
    """
    check_environment()
    source = config.backbone.source
    local_model = source == "tiny" or os.path.isdir(os.path.expanduser(source))
    local = {OWN_DATA, *(name for name, benchmark in BENCHMARKS.items() if benchmark.source == "local")}
    if local_model and set(config.benchmarks.names) <= local:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # lmms-eval imports wandb before our settings for it
    # threads that wait by spinning starve each other on a machine that others use too: 50 times slower, measured
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_plan(config: RunConfig, weights: str | None = None) -> Plan:
    """The plan of a job, after :func:`prepare_environment`; ``weights``: see :func:`clasp.evaluation.plan.plan`."""
    prepare_environment(config)
    logging.captureWarnings(True)
    redact_logs()
    from clasp.evaluation.plan import plan

    return plan(config, weights)


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Checks the variables of ``environment``, by default the process's.

    Raises:
        ConfigError: a variable has a value that its library cannot read; names both, and the allowed values.
    """
    environment = os.environ if environment is None else environment
    numbers = {name: _count(name, environment[name], least) for name, least in _COUNTS.items() if name in environment}
    for name, only in (("WORLD_SIZE", 1), ("RANK", 0)):  # else lmms-eval asks a share of the questions only
        if numbers.get(name, only) != only:
            raise _refusal(name, environment[name], f"{only}, because one process computes a cell")
    for name, value in environment.items():
        if name in _FLAG_NAMES or name.startswith(_FLAG_PREFIX):
            _choice(name, value, _FLAGS)
        elif name == "ACCELERATE_MIXED_PRECISION":
            _choice(name, value, _PRECISIONS)
    for plugin in filter(None, environment.get(_PLUGINS, "").split(",")):
        if not _has_models(plugin):
            allowed = f"packages with a module 'models', which {shown(plugin)} is not"
            raise _refusal(_PLUGINS, environment[_PLUGINS], allowed)


def _count(name: str, value: str, least: int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if number < least:
        raise _refusal(name, value, f"a whole number from {least} on")
    return number


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value.lower() not in allowed:
        raise _refusal(name, value, f"one of {', '.join(allowed)}")


def _has_models(plugin: str) -> bool:
    try:
        return find_spec(f"{plugin}.models") is not None
    except Exception:  # importing the package runs its code, which may raise anything
        return False


def _refusal(name: str, value: str, allowed: str) -> ConfigError:
    return ConfigError(f"the environment variable {name}={shown(value)} is to be {allowed}; set it so, or unset it")
