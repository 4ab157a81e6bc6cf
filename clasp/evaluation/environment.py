"""The environment as libraries should find it when they are imported. Torch-free."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from clasp.config import OWN_DATA, RunConfig
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.redact import redact_logs

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan


def prepare_environment(config: RunConfig) -> None:
    """What libraries read when they are imported. Where model and questions are here, nothing looks for a network."""
    source = config.backbone.source
    here = source == "tiny" or os.path.isdir(os.path.expanduser(source))
    local = {OWN_DATA, *(name for name, benchmark in BENCHMARKS.items() if benchmark.source == "local")}
    if here and set(config.benchmarks.names) <= local:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # lmms-eval imports wandb before our logger can say so
    # threads that wait by spinning starve each other on a machine that others use too: 50 times slower, measured
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_plan(config: RunConfig, weights: str | None = None) -> Plan:
    """The plan of a job, once the environment is as libraries should find it; ``weights`` as ``plan`` takes it."""
    prepare_environment(config)
    logging.captureWarnings(True)
    redact_logs()
    from clasp.evaluation.plan import plan

    return plan(config, weights)
