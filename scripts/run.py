"""Evaluates pruning methods: ``python scripts/run.py backbone=tiny method=clasp tokens=64``; see ``--help``."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.evaluation import cli
from clasp.evaluation.hydra_files import TARGETS
from clasp.report.wandb_log import log_group


@hydra.main(config_path="../configs", config_name="config", execution_whitelist=TARGETS)
def run(config: DictConfig) -> None:
    cli.job(config, log_group)


if __name__ == "__main__":
    sys.exit(cli.main(run))
