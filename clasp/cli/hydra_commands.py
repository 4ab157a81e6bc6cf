"""The commands whose configuration Hydra composes: run, plan, prefetch, calibrate, retention.

Configurations come from the checkout or, installed, from the package; ``--config-dir FOLDER`` adds a user's own.
"""

from __future__ import annotations

from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from clasp.cli import jobs
from clasp.cli.hydra_guard import CONFIGS, TARGETS


def run() -> int:
    """Computes cells."""
    from clasp.report.wandb_log import log_group

    return _composed("config", lambda config: jobs.job(config, log_group))


def plan() -> int:
    """Prints what a run would do."""
    return _composed("config", jobs.plan_job)


def prefetch() -> int:
    """Fetches what a run needs from the hub."""
    return _composed("config", jobs.prefetch_job)


def calibrate() -> int:
    """Chooses CLASP's table on held-out questions."""
    from clasp.report.wandb_log import log_group

    return _composed("calibrate", lambda config: jobs.calibration_job(config, log_group))


def retention() -> int:
    """Stores and draws which visual tokens methods keep."""

    def job(config: DictConfig) -> None:
        from clasp.report.build import build_retention  # after Hydra, which answers --help and reports bad keys first

        jobs.retention_job(config, build_retention)

    return _composed("retention", job)


def _composed(name: str, job: Callable[[DictConfig], None]) -> int:
    """Calls Hydra on ``sys.argv``; returns the exit code."""

    @hydra.main(config_path=str(CONFIGS), config_name=name, execution_whitelist=TARGETS)
    def composed(config: DictConfig) -> None:
        job(config)

    return jobs.main(composed)
