"""Logs finished cells to Weights & Biases: one short run per group (backbone, method, budget).

Offline without an account or a prompt; online where the user's environment says so. The files under ``results/cells``
are the truth: whatever happens here, no result is lost and no run stops. With ``enabled=False`` nothing is imported.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from clasp.report.cells import budget_tokens

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
COPIED = ("signature", "benchmark", "category", "metric", "score", "questions")
COLUMNS = [*COPIED, "output_average", "tflops_gated", "kv_mib", "prefill_ms", "decode_ms"]
"""Columns of a run's table; the first ones are a cell's own keys."""
RETRIES = 2
NETWORK_SECONDS = 60
"""Longest wait for the server when a run starts; then the process goes on offline."""


class WandbSettings(Protocol):
    """What the caller's configuration says; ``mode`` None leaves the choice to the environment."""

    @property
    def enabled(self) -> bool: ...
    @property
    def project(self) -> str: ...
    @property
    def mode(self) -> Literal["online", "offline"] | None: ...
    @property
    def entity(self) -> str | None: ...


@dataclass(frozen=True)
class Logged:
    """Where a group went.

    Args:
        status: ``online``, ``offline``, ``disabled`` (nothing was written) or ``failed`` (see ``message``).
        where: the run's page, or the folder that ``wandb sync`` takes; empty where nothing was written.
        message: one sentence for people.
    """

    status: Literal["online", "offline", "disabled", "failed"]
    where: str
    message: str


def log_group(
    cells: Sequence[Mapping[str, Any]],
    settings: WandbSettings,
    *,
    experiment: str = "run",
    results: Path = Path("results"),
) -> Logged:
    """Logs the cells of one method at one budget as one run; files go under ``<results>/wandb``.

    The run's id is a hash of the cells' signatures: the same cells are one run however often they are logged.

    Args:
        cells: results files of one backbone, method and budget.
        settings: project, entity, mode and the switch.
        experiment: name of the experiment, W&B's group.
        results: root of the results.

    Raises:
        ValueError: no cells, or cells of several groups.
    """
    if not settings.enabled:
        return Logged("disabled", "", "Weights & Biases is off (wandb.enabled=false)")
    _check(cells)
    folder = results.absolute() / "wandb"
    with _environment(folder):
        outcome = _log(cells, settings, experiment, folder)
    log.log(logging.WARNING if outcome.status == "failed" else logging.INFO, outcome.message)
    return outcome


def group_id(cells: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits from the cells' signatures, whatever their order."""
    return hashlib.sha256("\n".join(sorted(str(cell["signature"]) for cell in cells)).encode()).hexdigest()[:16]


def choose_mode(wandb: Any, settings: WandbSettings) -> Mode:
    """WANDB_MODE, else the configuration, else what `wandb offline` saved, else online exactly where there is a key.

    Raises:
        wandb.errors.Error: an API key is there but malformed, or online is asked for without one.
    """
    saved = str(wandb.setup().settings.mode)
    wanted = os.environ.get("WANDB_MODE") or settings.mode or (saved if saved != "online" else "")
    if wanted in ("offline", "dryrun"):  # the latter is W&B's older word
        return "offline"
    if wanted == "disabled":
        return "disabled"
    has_key = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.api.api_key)
    if wanted and not has_key:
        raise wandb.errors.UsageError(f"mode {wanted!r} needs an API key; run 'wandb login' or set WANDB_API_KEY")
    return "online" if has_key else "offline"


def _log(cells: Sequence[Mapping[str, Any]], settings: WandbSettings, experiment: str, folder: Path) -> Logged:
    try:
        import wandb
    except ImportError as error:
        return _failed(error)
    try:
        mode = choose_mode(wandb, settings)
        if mode == "disabled":
            return Logged("disabled", "", "Weights & Biases is off (WANDB_MODE=disabled)")
        if mode == "online" and not _unreachable:
            try:
                return _write(wandb, "online", cells, settings, experiment, folder)
            except wandb.errors.Error as error:
                _unreachable.append(_reason(error))
                wandb.teardown()  # wandb's helper process holds the failed run's id until it gives up
                log.warning("Weights & Biases is not reachable (%s); this process goes on offline", _unreachable[0])
        return _write(wandb, "offline", cells, settings, experiment, folder)
    except (wandb.errors.Error, OSError, TimeoutError) as error:
        return _failed(error)


_unreachable: list[str] = []
"""Why the server could not be used, once it could not: every further try in this process would cost the full wait."""


def _write(
    wandb: Any,
    mode: Literal["online", "offline"],
    cells: Sequence[Mapping[str, Any]],
    settings: WandbSettings,
    experiment: str,
    folder: Path,
) -> Logged:
    earlier = sorted(folder.glob(f"offline-run-*-{group_id(cells)}"))
    if mode == "offline" and earlier:
        return Logged("offline", str(earlier[-1]), f"these cells are already in the W&B run {earlier[-1]}")
    with _run(wandb, mode, cells, settings, experiment, folder) as run:
        where = str(run.url if mode == "online" else Path(run.dir).parent)
        _fill(wandb, run, cells)
    hint = f"; to upload it: wandb sync {where}" if mode == "offline" else ""
    return Logged(mode, where, f"logged {len(cells)} cells to the W&B run {where}{hint}")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failed(error: BaseException) -> Logged:
    return Logged(
        "failed", "", f"Weights & Biases could not log ({_reason(error)}); the results files are complete, "
        "and WANDB_MODE=offline or wandb.enabled=false keeps it from trying",
    )  # fmt: skip


def _check(cells: Sequence[Mapping[str, Any]]) -> None:
    groups = sorted({(cell["backbone"], cell["method"], budget_tokens(cell)) for cell in cells})
    if len(groups) != 1:
        raise ValueError(f"one W&B run holds the cells of one backbone, method and budget, not of {groups or 'none'}")


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Keeps wandb's own files below the results, and its error reports from the network; the user's variables win."""
    ours = {
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }
    added = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _run(
    wandb: Any,
    mode: str,
    cells: Sequence[Mapping[str, Any]],
    settings: WandbSettings,
    experiment: str,
    folder: Path,
) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    first = cells[0]
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, init_timeout=NETWORK_SECONDS,
        x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        # by default wandb goes on trying for days and holds the process's exit until it succeeds
        x_graphql_retry_max=RETRIES, x_graphql_retry_wait_max_seconds=2, x_graphql_timeout_seconds=10,
        x_file_stream_retry_max=RETRIES, x_file_stream_retry_wait_max_seconds=2, x_file_stream_timeout_seconds=10,
        x_file_transfer_retry_max=RETRIES, x_file_transfer_retry_wait_max_seconds=2, x_file_transfer_timeout_seconds=30,
    )  # fmt: skip
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        id=group_id(cells),
        name=f"{first['backbone']}-{first['method']}-{budget_tokens(first)}",
        group=experiment,
        job_type=first["method"],
        config=group_config(cells),
        mode=mode,
        dir=folder.parent,  # wandb appends its own "wandb"
        settings=quiet,
    )


def group_config(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all cells of the group share: the parts of their identities that are equal, and their names."""
    first = cells[0]
    shared = {
        key: value
        for key, value in first["identity"].items()
        if all(cell["identity"].get(key) == value for cell in cells)
    }
    names = {key: first[key] for key in ("backbone", "budget")}
    return {**shared, **names, "signatures": sorted(cell["signature"] for cell in cells)}


def _fill(wandb: Any, run: Any, cells: Sequence[Mapping[str, Any]]) -> None:
    """Summary: every score. History: one table, a line per cell."""
    run.log({"cells": wandb.Table(columns=COLUMNS, data=[_line(cell) for cell in cells])})
    run.summary.update({f"score/{cell['benchmark']}": cell["score"] for cell in cells})
    run.summary.update({f"questions/{cell['benchmark']}": cell["questions"] for cell in cells})


def _line(cell: Mapping[str, Any]) -> list[Any]:
    costs = cell["costs"]
    return [
        *(cell[key] for key in COPIED),
        costs["visual_tokens"]["output_average"],
        costs["tflops"]["gated"],
        costs["kv_bytes"] / 2**20,
        1e3 * costs["seconds"]["prefill"],
        1e3 * costs["seconds"]["decode"],
    ]
