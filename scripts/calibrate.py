"""Chooses CLASP's fusion and pivot share per category on held-out questions: ``configs/policy/<backbone>.yaml``.

``python scripts/calibrate.py`` for the tiny backbone; see ``--help`` and ``clasp/evaluation/calibration/choice.py``.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import TARGETS
from clasp.report.wandb_log import log_group


@hydra.main(config_path="../configs", config_name="calibrate", execution_whitelist=TARGETS)
def run(config: DictConfig) -> None:
    jobs.calibration_job(config, log_group)


if __name__ == "__main__":
    sys.exit(jobs.main(run))
