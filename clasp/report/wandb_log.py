"""Logs results to Weights & Biases: finished cells by group (backbone, method, budget), and an experiment's report.

Offline without an account or a prompt; online where the user's environment says so. The files under ``results`` are the
truth: what cannot be logged is reported in words and stops nothing. wandb is imported when a run is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clasp.files import write_atomically
from clasp.redact import redact, redacted
from clasp.report.load import budget_tokens

if TYPE_CHECKING:
    from clasp.config import WandbConfig
    from clasp.report.load import Experiment

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
Fill = Callable[[Any, Any], None]
"""Logs a run's content; called with the wandb module and the open run."""
RETRIES = 2
NETWORK_SECONDS = 60
"""Longest wait for the server when a run starts; then the process goes on offline."""
COPIED = ("signature", "benchmark", "category", "metric", "score", "questions")
COLUMNS = [*COPIED, "output_average", "tflops_gated", "kv_mib", "prefill_ms", "decode_ms"]
"""Columns of a group's table; the first ones are a cell's own keys."""
REPORT = "report"
"""Job type of an experiment's report, and the type of the artifact that it holds."""


@dataclass(frozen=True)
class Logged:
    """Where a run went.

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
        experiment: name of the experiment, W&B's group.
        results: root of the results.

    Raises:
        ValueError: no cells, or cells of several groups.
    """
    groups = sorted({(cell["backbone"], cell["method"], budget_tokens(cell)) for cell in cells})
    if len(groups) != 1:
        raise ValueError(f"one W&B run holds the cells of one backbone, method and budget, not of {groups or 'none'}")
    backbone, method, tokens = groups[0]

    def fill(wandb: Any, run: Any) -> None:
        run.log({"cells": wandb.Table(columns=COLUMNS, data=[_line(cell) for cell in cells])})
        run.summary.update({f"score/{cell['benchmark']}": cell["score"] for cell in cells})
        run.summary.update({f"questions/{cell['benchmark']}": cell["questions"] for cell in cells})

    config, name = group_config(cells), f"{backbone}-{method}-{tokens}"
    init = {"id": group_id(cells), "name": name, "group": experiment, "job_type": method, "config": config}
    return log_run(f"{len(cells)} cells", init, fill, settings, results)


def log_report(
    experiment: Experiment,
    tables: Mapping[str, Path],
    figures: Iterable[Path],
    settings: WandbConfig,
    results: Path,
    page: Path | None = None,
) -> Logged:
    """Logs an experiment's tables and figures as one run: the rows as a table, their averages in the summary, the files
    as an artifact.

    The run's id is a hash of the experiment's name and its cells' signatures: another run appears when cells are added.

    Args:
        experiment: whose report it is.
        tables: suffix -> path of its tables; ``csv`` must be one, for its lines are the rows.
        figures: paths of its figures.
        settings: project, entity, mode (None: the environment's) and the switch.
        results: root of the results.
        page: the HTML page of all experiments, where it has been built.
    """
    signatures, name = sorted(set(experiment.frame["signature"])), f"{REPORT}-{experiment.name}"
    backbone = str(experiment.frame["backbone"].iloc[0])

    def fill(wandb: Any, run: Any) -> None:
        columns, lines = _rows(tables["csv"])
        run.log({"rows": wandb.Table(columns=columns, data=lines)})
        for row in (dict(zip(columns, line, strict=True)) for line in lines):
            run.summary[f"average/{row['row']}/{row['budget']}"] = row["normalized_average"]
        artifact = wandb.Artifact(name, type=REPORT)
        for path in [*tables.values(), *figures, *([page] if page else [])]:
            artifact.add_file(str(path), name=path.name)
        run.log_artifact(artifact)

    config = {"backbone": backbone, "command": experiment.command, "signatures": signatures}
    run_id = _hash([REPORT, experiment.name, *signatures])
    init = {"id": run_id, "name": name, "group": experiment.name, "job_type": REPORT, "config": config}
    return log_run(f"the report of {experiment.name}", init, fill, settings, results)


def group_id(cells: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits from the cells' signatures, whatever their order."""
    return _hash(sorted(str(cell["signature"]) for cell in cells))


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


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _line(cell: Mapping[str, Any]) -> list[Any]:
    costs = cell["costs"]
    tokens, tflops, mib = costs["visual_tokens"]["output_average"], costs["tflops"]["gated"], costs["kv_bytes"] / 2**20
    milliseconds = [1e3 * costs["seconds"][phase] for phase in ("prefill", "decode")]
    return [*(cell[key] for key in COPIED), tokens, tflops, mib, *milliseconds]


def _rows(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and lines of a CSV file; None where an entry is empty. W&B's tables take one type a column."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
    return list(frame.columns), frame.astype(object).where(frame.notna(), None).values.tolist()


def log_run(what: str, init: Mapping[str, Any], fill: Fill, settings: WandbConfig, results: Path) -> Logged:
    """Writes one run; its files go under ``<results>/wandb``.

    Args:
        what: the content in words, as in "35 cells".
        init: arguments of ``wandb.init``: id, name, group, job_type, config.
    """
    if not settings.enabled:
        return Logged("disabled", "", "Weights & Biases is off (wandb.enabled=false)")
    folder = results.absolute() / "wandb"
    with _environment(folder):
        try:
            import wandb
        except ImportError as error:
            outcome = _failed(error)
        else:
            try:
                outcome = _write(wandb, what, init, fill, settings, folder)
            except (wandb.errors.Error, OSError, TimeoutError) as error:
                outcome = _failed(error)
    log.log(logging.WARNING if outcome.status == "failed" else logging.INFO, outcome.message)
    return outcome


def choose_mode(wandb: Any, settings: WandbConfig) -> Mode:
    """WANDB_MODE, else the configuration, else what `wandb offline` saved, else online exactly where there is a key.

    Raises:
        wandb.errors.Error: an API key or another variable is there but malformed, or online is asked for without a key.
    """
    try:
        saved = str(wandb.setup().settings.mode)
    except ValueError as error:  # a variable of the user's that wandb cannot use
        raise wandb.errors.UsageError(f"wandb's settings in the environment are wrong: {error}") from error
    wanted = os.environ.get("WANDB_MODE") or settings.mode or (saved if saved != "online" else "")
    if wanted in ("offline", "dryrun"):  # the latter is W&B's older word
        return "offline"
    if wanted == "disabled":
        return "disabled"
    has_key = bool(os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.api.api_key)
    if wanted and not has_key:
        raise wandb.errors.UsageError(f"mode {wanted!r} needs an API key; run 'wandb login' or set WANDB_API_KEY")
    return "online" if has_key else "offline"


_unreachable: list[str] = []
"""Why the server could not be used, once it could not: every further try in this process would cost the full wait."""


def _write(wandb: Any, what: str, init: Mapping[str, Any], fill: Fill, settings: WandbConfig, folder: Path) -> Logged:
    """Online where that is the mode and the server answers, else offline."""
    mode = choose_mode(wandb, settings)
    if mode == "disabled":
        return Logged("disabled", "", "Weights & Biases is off (WANDB_MODE=disabled)")
    folder.mkdir(parents=True, exist_ok=True)
    if mode == "online" and not _unreachable:
        try:
            with _init(wandb, "online", init, settings, folder) as run:
                where = str(run.url)
                fill(wandb, run)
            _redact_logs(Path(run.dir).parent)
            return Logged("online", where, f"logged {what} to the W&B run {where}")
        except wandb.errors.Error as error:
            _unreachable.append(_reason(error))
            wandb.teardown()  # wandb's helper process holds the failed run's id until it gives up
            log.warning("Weights & Biases is not reachable (%s); this process goes on offline", _unreachable[0])
    earlier = sorted(folder.glob(f"offline-run-*-{init['id']}"))
    if earlier:
        return Logged("offline", str(earlier[-1]), f"{what} already in the W&B run {earlier[-1]}")
    with _init(wandb, "offline", init, settings, folder) as run:
        written = Path(run.dir).parent
        fill(wandb, run)
    _redact_logs(written)
    hint = f"to upload it, from this folder: wandb sync {written}"
    return Logged("offline", str(written), f"logged {what} to the W&B run {written}; {hint}")


def _init(wandb: Any, mode: str, init: Mapping[str, Any], settings: WandbConfig, folder: Path) -> Any:
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, init_timeout=NETWORK_SECONDS,
        x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        # by default wandb goes on trying for days and holds the process's exit until it succeeds
        x_graphql_retry_max=RETRIES, x_graphql_retry_wait_max_seconds=2, x_graphql_timeout_seconds=10,
        x_file_stream_retry_max=RETRIES, x_file_stream_retry_wait_max_seconds=2, x_file_stream_timeout_seconds=10,
        x_file_transfer_retry_max=RETRIES, x_file_transfer_retry_wait_max_seconds=2, x_file_transfer_timeout_seconds=30,
    )  # fmt: skip
    return wandb.init(
        **{**init, "config": redacted(dict(init["config"]))},
        project=settings.project,
        entity=settings.entity,
        mode=mode,
        dir=folder.parent,  # wandb appends its own "wandb"
        settings=quiet,
    )


def _redact_logs(run: Path) -> None:
    """wandb's own logs of a run name its files by their whole paths."""
    for path in (run / "logs").glob("*.log"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not path.is_symlink() and (clean := redact(text)) != text:
            write_atomically(path, clean.encode())


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failed(error: BaseException) -> Logged:
    return Logged(
        "failed", "", f"Weights & Biases could not log ({_reason(error)}); the results files are complete, "
        "and WANDB_MODE=offline or wandb.enabled=false keeps it from trying",
    )  # fmt: skip


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Keeps wandb's own files below the results, and its error reports from the network; the user's variables win."""
    data, here = folder / "data", Path("/proc/self/cwd")
    if here.exists() and folder.is_relative_to(Path.cwd()):
        # a run's file names what is staged for `wandb sync` by its whole path; this address does not reveal it
        data = here / data.relative_to(Path.cwd())
    ours = {"WANDB_DATA_DIR": str(data), "WANDB_CACHE_DIR": str(folder / "cache"), "WANDB_ERROR_REPORTING": "false"}
    # wandb takes a variable that is set to nothing for a wrong value
    empty = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and not value.strip()}
    for name in empty:
        del os.environ[name]
    added = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        os.environ.update(empty)
