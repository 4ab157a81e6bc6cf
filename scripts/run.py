"""Evaluates pruning methods: ``python scripts/run.py backbone=tiny method=clasp tokens=64``; see ``--help``."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import TARGETS
from clasp.report.wandb_log import log_group


@hydra.main(config_path="../configs", config_name="config", execution_whitelist=TARGETS)
def run(config: DictConfig) -> None:
    jobs.job(config, log_group)


if __name__ == "__main__":
    sys.exit(jobs.main(run))
