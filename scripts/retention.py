"""Draws which visual tokens methods keep of a few pictures: ``python scripts/retention.py``; see ``--help``.

Writes ``<results>/retention/<name>.json``, and from it alone ``<results>/figures/retention_<name>.{png,svg}``.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import TARGETS


@hydra.main(config_path="../configs", config_name="retention", execution_whitelist=TARGETS)
def run(config: DictConfig) -> None:
    from clasp.report.build import build_retention  # after Hydra, which answers --help and reports bad keys without it

    jobs.retention_job(config, build_retention)


if __name__ == "__main__":
    sys.exit(jobs.main(run))
