"""Fetches what a run needs from the hub: ``python scripts/prefetch.py experiment=table_llava15 backbone=llava_1_5_7b``.

Takes what ``scripts/run.py`` takes. Run it where the hub can be reached; jobs then find everything without it.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import TARGETS


@hydra.main(config_path="../configs", config_name="config", execution_whitelist=TARGETS)
def prefetch(config: DictConfig) -> None:
    jobs.prefetch_job(config)


if __name__ == "__main__":
    sys.exit(jobs.main(prefetch))
