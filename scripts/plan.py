"""What a run would do: ``python scripts/plan.py experiment=table_llava15 backbone=llava_1_5_7b launcher=slurm``.

Takes what ``scripts/run.py`` takes, and runs nothing.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import TARGETS


@hydra.main(config_path="../configs", config_name="config", execution_whitelist=TARGETS)
def plan(config: DictConfig) -> None:
    jobs.plan_job(config)


if __name__ == "__main__":
    sys.exit(jobs.main(plan))
