"""Logs results to Weights & Biases: finished cells by group (backbone, method, budget), and an experiment's report.

Runs are offline, without an account or a prompt, unless the user's environment says online. The results are in files of
their own: a failure to log is reported in words and stops nothing. wandb is imported when a run is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.files import write_atomically
from clasp.redact import redact, redacted
from clasp.report.load import budget_tokens

if TYPE_CHECKING:
    from clasp.config import WandbConfig
    from clasp.report.load import Experiment

log = logging.getLogger(__name__)

Fill = Callable[[Any, Any], None]
"""Logs a run's content; called with the wandb module and the open run."""
REPORT = "report"
"""Job type of an experiment's report, and the type of the artifact that it holds."""


@dataclass(frozen=True)
class Logged:
    """The outcome of logging a run: ``online``, ``offline``, ``disabled`` (nothing was written) or ``failed``, and a
    sentence for people."""

    status: str
    message: str


def log_group(
    cells: Sequence[Mapping[str, Any]],
    settings: WandbConfig,
    *,
    experiment: str = "run",
    results: Path = Path("results"),
) -> Logged:
    """Logs the cells of one method at one budget as one run: a table with a line per cell, every score in the summary.

    The run's id is a hash of the cells' signatures: the same cells are one run however often they are logged.

    Args:
        cells: results files of one backbone, method and budget.
        settings: project, entity, mode (None: the environment's) and the switch.
        experiment: W&B's group.

    Raises:
        ValueError: no cells, or cells of several groups.
    """
    groups = sorted({(cell["backbone"], cell["method"], budget_tokens(cell)) for cell in cells})
    if len(groups) != 1:
        raise ValueError(f"one W&B run holds the cells of one backbone, method and budget, not of {groups or 'none'}")
    backbone, method, tokens = groups[0]
    signatures = sorted(str(cell["signature"]) for cell in cells)
    identities = [cell["identity"] for cell in cells]
    shared = {k: v for k, v in identities[0].items() if all(one.get(k) == v for one in identities)}

    def fill(wandb: Any, run: Any) -> None:
        lines = [_line(cell) for cell in cells]
        run.log({"cells": wandb.Table(columns=list(lines[0]), data=[list(line.values()) for line in lines])})
        for key in ("score", "questions"):
            run.summary.update({f"{key}/{cell['benchmark']}": cell[key] for cell in cells})

    config = {**shared, "backbone": backbone, "budget": cells[0]["budget"], "signatures": signatures}
    init = {"id": _hash(signatures), "name": f"{backbone}-{method}-{tokens}", "group": experiment, "job_type": method}
    return _log(f"{len(cells)} cells", {**init, "config": config}, fill, settings, results)


def log_report(experiment: Experiment, settings: WandbConfig, page: Path | None = None) -> Logged:
    """Logs an experiment's tables and figures, as they lie below its results root, as one run: the rows as a table,
    their averages in the summary, the files as an artifact.

    The run's id is a hash of the experiment's name and its cells' signatures: another run appears when cells are added.
    ``page`` is the HTML page of all experiments, where it has been built.
    """
    signatures, name = sorted(set(experiment.frame["signature"])), f"{REPORT}-{experiment.name}"

    def fill(wandb: Any, run: Any) -> None:
        columns, lines = _rows(experiment.tables["csv"])
        run.log({"rows": wandb.Table(columns=columns, data=lines)})
        for row in (dict(zip(columns, line, strict=True)) for line in lines):
            run.summary[f"average/{row['row']}/{row['budget']}"] = row["normalized_average"]
        artifact = wandb.Artifact(name, type=REPORT)
        drawn = [path for path in experiment.figures if path.is_file()]
        for path in [*experiment.tables.values(), *drawn, *([page] if page else [])]:
            artifact.add_file(str(path), name=path.name)
        run.log_artifact(artifact)

    backbone = str(experiment.frame["backbone"].iloc[0])
    config = {"backbone": backbone, "command": experiment.command, "signatures": signatures}
    identifier = _hash([REPORT, experiment.name, *signatures])
    init = {"id": identifier, "name": name, "group": experiment.name, "job_type": REPORT, "config": config}
    return _log(f"the report of {experiment.name}", init, fill, settings, experiment.results)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _line(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell in the table of its group."""
    costs = cell["costs"]
    return {
        **{key: cell[key] for key in ("signature", "benchmark", "category", "metric", "score", "questions")},
        "output_average": costs["visual_tokens"]["output_average"],
        "tflops_gated": costs["tflops"]["gated"],
        "kv_mib": costs["kv_bytes"] / 2**20,
        "prefill_ms": 1e3 * costs["seconds"]["prefill"],
        "decode_ms": 1e3 * costs["seconds"]["decode"],
    }


def _rows(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines of a CSV file; None where an entry is empty. W&B's tables take one type a column."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    return list(frame.columns), frame.astype(object).where(frame.notna(), None).values.tolist()


def _log(what: str, init: Mapping[str, Any], fill: Fill, settings: WandbConfig, results: Path) -> Logged:
    """Writes one run below ``<results>/wandb``: ``what`` in words, as in "35 cells", with these arguments of
    ``wandb.init``."""
    if not settings.enabled:
        return Logged("disabled", "Weights & Biases is off (wandb.enabled=false)")
    _keep_files_in(results.absolute() / "wandb")
    try:
        import wandb
    except ImportError as error:
        return _failed(error)
    try:
        mode = choose_mode(wandb, settings)
        if mode == "disabled":
            return Logged(mode, "Weights & Biases is off (WANDB_MODE=disabled)")
        if mode == "online":
            try:
                return _write(wandb, mode, what, init, fill, settings, results.absolute())
            except wandb.errors.Error as error:
                log.warning("Weights & Biases is not reachable (%s); this process goes on offline", error)
                os.environ["WANDB_MODE"] = mode = "offline"  # every further try would cost the full wait
                wandb.teardown()  # wandb's helper process holds the failed run's id until it gives up
        return _write(wandb, mode, what, init, fill, settings, results.absolute())
    except (wandb.errors.Error, OSError) as error:
        return _failed(error)


def choose_mode(wandb: Any, settings: WandbConfig) -> str:
    """WANDB_MODE, else the configuration's, else what ``wandb offline`` saved, else online where there is a key."""
    if asked := os.environ.get("WANDB_MODE") or settings.mode:
        return asked
    has_key = wandb.api.api_key or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    return str(wandb.setup().settings.mode) if has_key else "offline"


def _write(
    wandb: Any, mode: str, what: str, init: Mapping[str, Any], fill: Fill, settings: WandbConfig, results: Path
) -> Logged:
    earlier = sorted((results / "wandb").glob(f"offline-run-*-{init['id']}"))
    if mode == "offline" and earlier:  # W&B cannot resume it
        return Logged(mode, f"{what} already in the W&B run {earlier[-1]}")
    (results / "wandb").mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True,
        x_disable_machine_info=True, x_save_requirements=False, init_timeout=60,
    )  # fmt: skip
    with wandb.init(
        **{**init, "config": redacted(dict(init["config"]))},
        project=settings.project,
        entity=settings.entity,
        mode=mode,
        dir=results,  # wandb appends "wandb"
        settings=quiet,
    ) as run:
        fill(wandb, run)
    folder = Path(run.dir).parent
    for path in (folder / "logs").glob("*.log"):  # wandb's own logs name files by their whole paths
        if not path.is_symlink():
            write_atomically(path, redact(path.read_text(encoding="utf-8", errors="replace")).encode())
    where = str(run.url) if mode == "online" else f"{folder}; to upload it, from this folder: wandb sync {folder}"
    outcome = Logged(mode, f"logged {what} to the W&B run {where}")
    log.info(outcome.message)
    return outcome


def _failed(error: Exception) -> Logged:
    message = (
        f"Weights & Biases could not log ({' '.join(str(error).split())}); the results files are complete, and "
        "WANDB_MODE=offline or wandb.enabled=false keeps it from trying"
    )
    log.warning(message)
    return Logged("failed", message)


def _keep_files_in(folder: Path) -> None:
    """Keeps wandb's own files below the results and turns its error reports off, unless the user's variables differ."""
    data, here = folder / "data", Path("/proc/self/cwd")
    if here.exists() and folder.is_relative_to(Path.cwd()):
        # a run's file names what is staged for `wandb sync` by its whole path; this address does not reveal it
        data = here / data.relative_to(Path.cwd())
    os.environ.setdefault("WANDB_DATA_DIR", str(data))
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
