"""The commands that Hydra composes a configuration for, and their errors as one sentence. Torch-free itself.

Exit codes: 0 all cells are computed, 1 a cell failed or a bug, 2 bad input. ``HYDRA_FULL_ERROR=1`` shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clasp.arguments import BAD_INPUT
from clasp.backbones import BackboneRefused, BackboneUnavailable
from clasp.cli.console import FAILED, explain, print_outcome, print_plan, print_results
from clasp.cli.hydra_guard import CONFIGS, TARGETS
from clasp.config import RunConfig, load_config
from clasp.data import is_installed
from clasp.evaluation.environment import make_plan, prepare_environment
from clasp.evaluation.questions.embedded import ensure_as_planned
from clasp.files import is_full
from clasp.launch.sweep import Request, launch
from clasp.pipes import until_closed
from clasp.redact import redact
from clasp.results.provenance import command
from clasp.stopping import stoppable
from clasp.strict import ConfigError

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

POLICIES = CONFIGS / "policy"
"""Where calibrated tables go."""

Outcome = TypeVar("Outcome")
Job = Callable[[dict[str, Any]], "int | Request"]
"""One job of a run or a sweep, on the plain values of a composed configuration.

Returns its exit code, or what a launcher is to compute. Raises ConfigError or BackboneUnavailable for bad input.
"""


def run_job(values: dict[str, Any]) -> int | Request:
    """Computes the configured cells here, or returns the request for the launcher that will compute them."""
    config = load_config(values)
    planned = make_plan(config)
    return _run(planned, config) if config.launcher.kind == "basic" else Request(values, config, planned)


def calibration_job(values: dict[str, Any]) -> int:
    """For ``configs/calibrate.yaml``: checks the data, computes every setting, writes the best as a policy."""
    from clasp.evaluation.calibration import run as calibrating

    against, file = calibrating.names(values.pop("against")), values.pop("policy_file")
    config = _local(values, "run its cells first, with clasp-eval run experiment=calibration, and leave out launcher")
    if file is None and is_installed():
        raise ConfigError(
            f"policy_file is not given, and the installed policies are not changed; say for example "
            f"policy_file={config.paths.results}/policy/{config.backbone.name}.yaml, and use it with --config-dir"
        )
    path = calibrating.policy_path(file, config, POLICIES)
    calibrating.settings(config)
    planned = make_plan(config)
    data = calibrating.check_disjoint(config, planned, against)
    print(f"held out: no calibration image or question is in {', '.join(against)}")
    if status := _run(planned, config):
        return status
    chosen = calibrating.choose(config, planned)
    print(calibrating.table(chosen))
    print(f"wrote {calibrating.write_policy(path, config, planned, chosen, data)}")
    return 0


def retention_job(values: dict[str, Any]) -> int:
    """For ``configs/retention.yaml``: records which tokens methods keep of a few images, and draws them."""
    config = _local(values, "leave out launcher")
    planned = make_plan(config)
    from clasp.evaluation import kept_tokens
    from clasp.report.build import build_retention

    print(f"retention: {kept_tokens.record(config, planned)}")
    print(build_retention(config.paths.results, config.name))
    return 0


def plan_job(values: dict[str, Any]) -> int:
    """Prints what :func:`run_job` would compute and how long that takes; computes nothing."""
    from clasp.evaluation.plan import most_cells
    from clasp.launch import plan_report, prefetch

    config = load_config(values)
    try:
        planned = make_plan(config)
    except BackboneUnavailable as error:
        known = None if isinstance(error, BackboneRefused) else prefetch.pinned(config)
        if known is None:  # without the backbone's commit it is unknown which cells exist
            print(f"{config.name}: at most {most_cells(config)} cells on {config.backbone.name}")
            raise
        planned = make_plan(config, known)
        print(f"note: the backbone is not here; fetch it first: {prefetch.command(config)}")
    print(plan_report.plan_report(planned, config))
    return 0


def prefetch_job(values: dict[str, Any]) -> int:
    """Downloads and checks everything that :func:`run_job` needs, so that it works on machines without network."""
    config = load_config(values)
    prepare_environment(config)
    from clasp.launch.download import fetch

    fetch(config)
    planned = make_plan(config)  # finds what else is wrong
    ensure_as_planned(config.paths.data, planned.files)
    print(f"{config.name}: all that its {len(planned.cells)} cells need is here")
    return 0


def _local(values: dict[str, Any], remedy: str) -> RunConfig:
    """The configuration of a command that runs in this process only; any other launcher is refused."""
    config = load_config(values)
    if config.launcher.kind != "basic":
        raise ConfigError(f"launcher={config.launcher.kind} does not run this; {remedy}")
    return config


def _values(composed: Any) -> dict[str, Any]:
    """The composed configuration as plain values."""
    try:
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except RecursionError as error:
        raise ConfigError("the configuration is nested too deeply, or refers to itself; write it flatter") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _outcome(work: Callable[[], Outcome]) -> Outcome | int:
    """Calls ``work``; bad input and a full disk are printed as one sentence and become the exit code."""
    try:
        return work()
    except (ConfigError, BackboneUnavailable, OmegaConfBaseException) as error:
        print(f"error: {redact(explain(error))}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if not is_full(error):
            raise
        print(f"error: {error}; free some space and run the same command again, what is done is kept", file=sys.stderr)
        return FAILED


JOBS: dict[str, tuple[str, Job]] = {
    "run": ("config", run_job),
    "plan": ("config", plan_job),
    "prefetch": ("config", prefetch_job),
    "calibrate": ("calibrate", calibration_job),
    "retention": ("retention", retention_job),
}
"""Command -> the configuration that Hydra composes for it, and the job that takes it."""


def compose_and_run(name: str) -> int:
    """Runs a command of :data:`JOBS` on ``sys.argv``; returns the process's exit code.

    Configurations come from the checkout or, installed, from the package; ``--config-dir FOLDER`` adds a user's own.
    """
    config_name, job = JOBS[name]
    decorated = hydra.main(config_path=str(CONFIGS), config_name=config_name, execution_whitelist=TARGETS)
    return main(job, lambda each: decorated(each)())


def main(job: Job, compose: Callable[[Callable[[Any], None]], object]) -> int:
    """Runs the jobs of one command line; returns the process's exit code.

    Bad input in one job of a sweep is printed, and the other jobs still run.

    Args:
        compose: composes the configurations and calls its argument with each.
    """
    outcomes: list[int | Request] = []
    jobs_begun = False  # until then Hydra composes, and any error is one in the input

    def each(composed: Any) -> None:
        nonlocal jobs_begun
        jobs_begun = True
        outcomes.append(_outcome(lambda: job(_values(composed))))

    wanted = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its exceptions instead of printing them
    try:
        # on Ctrl-C or a scheduler's signal locks are released, and answers so far are kept
        with until_closed(), stoppable():
            compose(each)
            requests = [outcome for outcome in outcomes if isinstance(outcome, Request)]
            statuses = [outcome for outcome in outcomes if isinstance(outcome, int)]
            if requests and statuses:
                print("error: nothing was submitted", file=sys.stderr)
            elif requests:
                statuses.append(_outcome(lambda: launch(requests, command(), print_outcome)))
    except Exception as error:
        if wanted == "1" or (jobs_begun and not isinstance(error, HydraException)):
            raise
        print(f"error: {redact(explain(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        os.environ |= {} if wanted is None else {"HYDRA_FULL_ERROR": wanted}
    return max(statuses, default=0)


def _run(planned: Plan, config: RunConfig) -> int:
    """Computes the cells and prints the results; returns the job's exit code."""
    from clasp.evaluation.runner import run_cells
    from clasp.report.wandb_log import log_group

    print_plan(planned, config)
    finished = partial(log_group, settings=config.wandb, experiment=config.name, results=config.paths.results)
    outcome = run_cells(planned, config, finished)
    print_results(planned, config, outcome.cells, outcome.computed, len(outcome.failed))
    for label in outcome.failed:
        print(f"error: failed: {label} (traceback above)", file=sys.stderr)
    return FAILED if outcome.failed else 0
