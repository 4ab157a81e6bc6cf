"""One short run of Weights & Biases, whatever it holds: its mode, its folder, and what happens without a server.

Offline without an account or a prompt; online where the user's environment says so. Nothing here stops a program: what
cannot be logged is reported in words. wandb is imported when a run is written, not before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from clasp.files import write_atomically
from clasp.redact import redact, redacted

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]
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
    """Where a run went.

    Args:
        status: ``online``, ``offline``, ``disabled`` (nothing was written) or ``failed`` (see ``message``).
        where: the run's page, or the folder that ``wandb sync`` takes; empty where nothing was written.
        message: one sentence for people.
    """

    status: Literal["online", "offline", "disabled", "failed"]
    where: str
    message: str


@dataclass(frozen=True)
class Content:
    """What a run holds.

    Args:
        id: of the run, a hash of what it is made from: the same content is one run however often it is logged.
        name: shown as the run's name.
        group: W&B's group, the experiment's name.
        job_type: what the group's runs differ by.
        config: what was set to get the results.
        what: the content in words, as in "35 cells".
        fill: logs the content to the run that it is given, after the wandb module.
    """

    id: str
    name: str
    group: str
    job_type: str
    config: Mapping[str, Any]
    what: str
    fill: Callable[[Any, Any], None]


def write_run(content: Content, settings: WandbSettings, results: Path) -> Logged:
    """Writes the content as one run; files go under ``<results>/wandb``."""
    if not settings.enabled:
        return Logged("disabled", "", "Weights & Biases is off (wandb.enabled=false)")
    folder = results.absolute() / "wandb"
    with _environment(folder):
        outcome = _log(content, settings, folder)
    log.log(logging.WARNING if outcome.status == "failed" else logging.INFO, outcome.message)
    return outcome


def choose_mode(wandb: Any, settings: WandbSettings) -> Mode:
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


def _log(content: Content, settings: WandbSettings, folder: Path) -> Logged:
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
                return _write(wandb, "online", content, settings, folder)
            except wandb.errors.Error as error:
                _unreachable.append(_reason(error))
                wandb.teardown()  # wandb's helper process holds the failed run's id until it gives up
                log.warning("Weights & Biases is not reachable (%s); this process goes on offline", _unreachable[0])
        return _write(wandb, "offline", content, settings, folder)
    except (wandb.errors.Error, OSError, TimeoutError) as error:
        return _failed(error)


_unreachable: list[str] = []
"""Why the server could not be used, once it could not: every further try in this process would cost the full wait."""


def _write(
    wandb: Any,
    mode: Literal["online", "offline"],
    content: Content,
    settings: WandbSettings,
    folder: Path,
) -> Logged:
    earlier = sorted(folder.glob(f"offline-run-*-{content.id}"))
    if mode == "offline" and earlier:
        return Logged("offline", str(earlier[-1]), f"{content.what} already in the W&B run {earlier[-1]}")
    with _run(wandb, mode, content, settings, folder) as run:
        where, written = str(run.url if mode == "online" else Path(run.dir).parent), Path(run.dir).parent
        content.fill(wandb, run)
    _redact_logs(written)
    hint = f"; to upload it, from this folder: wandb sync {where}" if mode == "offline" else ""
    return Logged(mode, where, f"logged {content.what} to the W&B run {where}{hint}")


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
    ours = {
        "WANDB_DATA_DIR": _staging(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }
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


def _staging(folder: Path) -> str:
    """An address of the folder that does not tell where it lies, if there is one.

    A run's file names what is staged for `wandb sync` by the whole path, and makes relative ones whole. Linux has an
    address for the working directory, from which `wandb sync` is then to be called, as our message says.
    """
    here = Path("/proc/self/cwd")
    if here.exists() and folder.is_relative_to(Path.cwd()):
        return str(here / folder.relative_to(Path.cwd()))
    return str(folder)


def _run(
    wandb: Any,
    mode: str,
    content: Content,
    settings: WandbSettings,
    folder: Path,
) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
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
        id=content.id,
        name=content.name,
        group=content.group,
        job_type=content.job_type,
        config=redacted(dict(content.config)),
        mode=mode,
        dir=folder.parent,  # wandb appends its own "wandb"
        settings=quiet,
    )
