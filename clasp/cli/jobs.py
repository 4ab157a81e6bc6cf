"""The command line of the runner: one job from a composed configuration, and errors as one sentence. Torch-free itself.

Exit codes: 0 all cells are there, 1 a cell failed or a bug, 2 bad input. ``HYDRA_FULL_ERROR=1`` shows tracebacks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
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

_statuses: list[int] = []
_begun: list[bool] = []
"""Filled once a job runs: until then Hydra composes, and whatever goes wrong is the input's fault."""
_requests: list[Request] = []
"""For a launcher."""


def job(composed: Any) -> None:
    """One job of a run or a sweep; what went wrong is printed and remembered, so that a sweep's other jobs still run.

    Args:
        composed: the DictConfig that Hydra composed.
    """
    with _remembered():
        values = _values(composed)
        config = load_config(values)
        if config.launcher.kind == "basic":
            _statuses.append(_run(make_plan(config), config))
        else:
            _requests.append(Request(values, config, make_plan(config)))


def calibration_job(composed: Any) -> None:
    """As :func:`job`, for ``configs/calibrate.yaml``: checks, runs the settings, and writes the policy file."""
    from clasp.evaluation.calibration import run as calibrating

    with _remembered():
        values = _values(composed)
        against, file = calibrating.names(values.pop("against")), values.pop("policy_file")
        config = _here(
            values, "run its cells first, with clasp-eval run experiment=calibration, and leave out launcher"
        )
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
        status = _run(planned, config)
        _statuses.append(status)
        if status:
            return
        chosen = calibrating.choose(config, planned)
        print(calibrating.table(chosen))
        print(f"wrote {calibrating.write_policy(path, config, planned, chosen, data)}")


def retention_job(composed: Any) -> None:
    """As :func:`job`, for ``configs/retention.yaml``: stores and draws what methods keep of a few images."""
    with _remembered():
        config = _here(_values(composed), "leave out launcher")
        planned = make_plan(config)
        from clasp.evaluation import kept_tokens
        from clasp.report.build import build_retention

        print(f"retention: {kept_tokens.record(config, planned)}")
        print(build_retention(config.paths.results, config.name))
        _statuses.append(0)


def plan_job(composed: Any) -> None:
    """As :func:`job`: prints what it would run and how long that takes, and runs nothing."""
    from clasp.evaluation.plan import most_cells
    from clasp.launch import plan_report, prefetch

    with _remembered():
        config = load_config(_values(composed))
        try:
            planned = make_plan(config)
        except BackboneUnavailable as error:
            known = None if isinstance(error, BackboneRefused) else prefetch.pinned(config)
            if known is None:  # which cells are done is not known without the backbone's commit
                print(f"{config.name}: at most {most_cells(config)} cells on {config.backbone.name}")
                raise
            planned = make_plan(config, known)
            print(f"note: the backbone is not here; fetch it first: {prefetch.command(config)}")
        print(plan_report.plan_report(planned, config))
        _statuses.append(0)


def prefetch_job(composed: Any) -> None:
    """As :func:`job`: fetches and checks what it needs, so that jobs run where no hub can be reached."""
    with _remembered():
        config = load_config(_values(composed))
        prepare_environment(config)
        from clasp.launch.download import fetch

        fetch(config)
        planned = make_plan(config)  # finds what else is wrong
        ensure_as_planned(config.paths.data, planned.files)
        print(f"{config.name}: all that its {len(planned.cells)} cells need is here")
        _statuses.append(0)


def _here(values: dict[str, Any], remedy: str) -> RunConfig:
    """The configuration of what runs in this process alone."""
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


@contextmanager
def _remembered() -> Iterator[None]:
    """Bad input inside is printed as one sentence and remembered for the exit code."""
    _begun.append(True)
    try:
        yield
    except (ConfigError, BackboneUnavailable, OmegaConfBaseException) as error:
        print(f"error: {redact(explain(error))}", file=sys.stderr)
        _statuses.append(BAD_INPUT)
    except OSError as error:
        if not is_full(error):
            raise
        print(f"error: {error}; free some space and run the same command again, what is done is kept", file=sys.stderr)
        _statuses.append(FAILED)


JOBS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "run": ("config", job),
    "plan": ("config", plan_job),
    "prefetch": ("config", prefetch_job),
    "calibrate": ("calibrate", calibration_job),
    "retention": ("retention", retention_job),
}
"""Command -> the configuration that Hydra composes for it, and what is done with that."""


def compose_and_run(name: str) -> int:
    """A command of :data:`JOBS` on ``sys.argv``; returns the process's exit code.

    Configurations come from the checkout or, installed, from the package; ``--config-dir FOLDER`` adds a user's own.
    """
    config_name, own = JOBS[name]

    @hydra.main(config_path=str(CONFIGS), config_name=config_name, execution_whitelist=TARGETS)
    def composed(config: DictConfig) -> None:
        own(config)

    return main(composed)


def main(hydra_main: Callable[[], object]) -> int:
    """Runs a Hydra entry point whose jobs call :func:`job`; returns the process's exit code."""
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    _begun.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands us its exceptions instead of printing them
    try:
        # a polite end as a scheduler asks for it, or Ctrl-C: locks are released, what was answered is kept
        with until_closed(), stoppable():
            hydra_main()
            if _requests:
                _launch()
    except Exception as error:
        if wanted == "1" or (_begun and not isinstance(error, HydraException)):
            raise
        print(f"error: {redact(explain(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        _requests.clear()
        os.environ.pop("HYDRA_FULL_ERROR")
        os.environ |= {} if wanted is None else {"HYDRA_FULL_ERROR": wanted}
    return max(_statuses, default=0)


def _launch() -> None:
    """Hands what was asked for to its launcher, unless some of it cannot be run."""
    if _statuses:
        print("error: nothing was submitted", file=sys.stderr)
        return
    with _remembered():
        _statuses.append(launch(_requests, command(), print_outcome))


def _run(planned: Plan, config: RunConfig) -> int:
    """Runs, and prints the results; returns the exit code of this job."""
    from clasp.evaluation.runner import run_cells
    from clasp.report.wandb_log import log_group

    print_plan(planned, config)
    finished = partial(log_group, settings=config.wandb, experiment=config.name, results=config.paths.results)
    outcome = run_cells(planned, config, finished)
    print_results(planned, config, outcome.cells, outcome.computed, len(outcome.failed))
    for label in outcome.failed:
        print(f"error: failed: {label} (traceback above)", file=sys.stderr)
    return FAILED if outcome.failed else 0
