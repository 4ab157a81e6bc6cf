"""Fetches models and data sets from the hub and checks them, on a machine that reaches it (``make prefetch``)."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clasp.backbones.hub import BackboneUnavailable
from clasp.config import RunConfig
from clasp.evaluation.benchmarks import get_benchmark
from clasp.launch import prefetch
from clasp.launch.formatting import counted, size
from clasp.launch.prefetch import Manifest
from clasp.strict import ConfigError

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's repository that are fetched, at its top: no pickles, no code."""

Log = Callable[[str], object]


def fetch(config: RunConfig, log: Log = print) -> None:
    """Everything that a run of this configuration needs and does not have here.

    Files that an earlier call has fetched are hashed again; what is missing or altered is fetched anew and logged.

    Raises:
        BackboneUnavailable: the hub cannot be reached, and the model is not here.
        ConfigError: a repository without safetensors, or a data set that cannot be had.
    """
    if prefetch.from_hub(config):
        _model(config, log)
    else:
        log(f"backbone {config.backbone.name}: on this machine")
    for name in prefetch.hub_benchmarks(config):
        _data(config, name, log)
    if config.router.name == "embedding":
        _encoder(log)


def _model(config: RunConfig, log: Log) -> None:
    backbone, path = config.backbone, prefetch.model_path(config)
    earlier = prefetch.read(path)
    entries = _entries(backbone.source, backbone.revision)
    if entries is None:
        manifest = _held(config, earlier)
        log(f"backbone {backbone.name}: the hub cannot be reached; {_described(manifest)} here, unaltered")
        return
    commit, files = entries
    if not any(name.endswith(".safetensors") for name in files):
        raise ConfigError(f"backbone {backbone.source} has no safetensors; other formats are not loaded")
    total = sum(entry.size for entry in files.values())
    log(f"backbone {backbone.name}: {backbone.source} at {commit}, {counted(len(files), 'file')}, {size(total)}")
    folder = _downloaded(backbone.source, backbone.revision, commit, files, log)
    fresh = Manifest("model", backbone.source, prefetch.kept("model", folder), backbone.revision, commit)
    _compare(earlier, fresh, log)
    prefetch.write(path, fresh)


def _held(config: RunConfig, manifest: Manifest | None) -> Manifest:
    """What was fetched earlier, every file of it as it was.

    Raises:
        BackboneUnavailable: it was not, or is no longer.
    """
    if manifest is None or manifest.name != config.backbone.source:
        raise BackboneUnavailable(
            f"the hub cannot be reached from here, and {config.backbone.source!r} was not fetched before; run this on "
            "a machine that reaches it, or name a mirror in HF_ENDPOINT"
        )
    prefetch.commit(config)
    if faults := manifest.faults(thorough=True):
        path, fault = next(iter(faults.items()))
        raise BackboneUnavailable(f"{path} is {fault}, and the hub cannot be reached to fetch it again")
    return manifest


def _entries(source: str, revision: str | None) -> tuple[str, dict[str, Any]] | None:
    """The commit and the files to fetch, with the hub's own sizes and hashes; None where it cannot be reached."""
    from httpx2 import TransportError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        commit = api.model_info(source, revision=revision, timeout=20).sha
        assert commit is not None
        tree = api.list_repo_tree(source, revision=commit)
        wanted = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and _wanted(entry.path)}
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise BackboneUnavailable(
            f"the hub gives out no {source!r} at {revision or 'its current commit'}: {reason}"
        ) from error
    except (TransportError, OfflineModeIsEnabled, OSError):
        return None
    return commit, wanted


def _wanted(name: str) -> bool:
    return "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)


def _downloaded(source: str, revision: str | None, commit: str, files: dict[str, Any], log: Log) -> list[Path]:
    """Paths of the files in the cache, each with the hub's own hash."""
    from huggingface_hub import hf_hub_download, snapshot_download

    # by branch where none is pinned, so that the cache knows which commit that was
    folder = Path(snapshot_download(source, revision=revision, allow_patterns=sorted(files)))
    for name, entry in files.items():
        if not _as_on_hub(folder / name, entry):
            log(f"  {name} in the cache is not the hub's; fetching it again")
            hf_hub_download(source, name, revision=commit, force_download=True)
            if not _as_on_hub(folder / name, entry):
                raise BackboneUnavailable(f"{name} of {source} does not arrive as the hub lists it; try again later")
    return [folder / name for name in files]


def _encoder(log: Log) -> None:
    """The router's sentence encoder is a package of its own; it loads, or says what to install."""
    from clasp.methods.clasp.router import make_router

    make_router("embedding").route(["What color is the car?"])
    log("router: its sentence encoder is here")


def _as_on_hub(path: Path, entry: Any) -> bool:
    """Large files are listed by SHA-256, small ones by git's hash."""
    if path.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        return prefetch.sha256(path) == entry.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == entry.blob_id


def _data(config: RunConfig, name: str, log: Log) -> None:
    path = prefetch.data_path(config, name)
    earlier = prefetch.read(path)
    for fault, altered in (earlier.faults(thorough=True) if earlier is not None else {}).items():
        log(f"  {fault} is {altered}; making it again")
        shutil.rmtree((prefetch.cache("data") / fault).parent, ignore_errors=True)
    folders = _loaded(config, name)
    fresh = Manifest("data", name, prefetch.kept("data", [file for folder in folders for file in _files(folder)]))
    log(f"benchmark {name}: {_described(fresh)}")
    _compare(earlier, fresh, log)
    prefetch.write(path, fresh)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def _loaded(config: RunConfig, name: str) -> list[Path]:
    """Loads a benchmark as a run does, the image of its first question included; the folders that this has read.

    Raises:
        ConfigError: it cannot be had.
    """
    from tenacity import RetryError

    os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(prefetch.cache("data"))  # not the login node's own disk
    from clasp.evaluation.lmms import documents

    with _watched() as folders:
        try:
            next(documents(get_benchmark(name), config))
        except (OSError, ValueError, RetryError) as error:
            cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
            raise ConfigError(
                f"the data set of benchmark {name} cannot be had ({' '.join(str(cause).split())}); where it needs an "
                "account, log in with 'hf auth login'"
            ) from error
    return sorted(set(folders))


@contextmanager
def _watched() -> Iterator[list[Path]]:
    """Folders of the cache from which data sets are loaded meanwhile."""
    from datasets import DatasetBuilder

    folders: list[Path] = []
    as_dataset = DatasetBuilder.as_dataset

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        folders.append(Path(self.cache_dir).resolve())
        return as_dataset(self, *args, **kwargs)

    DatasetBuilder.as_dataset = noting
    try:
        yield folders
    finally:
        DatasetBuilder.as_dataset = as_dataset


def _compare(earlier: Manifest | None, fresh: Manifest, log: Log) -> None:
    """Says what is no longer as it was when it was first fetched."""
    if earlier is None:
        return
    before, after = earlier.files, fresh.files
    changed = [path for path in after if path in before and before[path].sha256 != after[path].sha256]
    for word, paths in (
        ("changed", changed),
        ("new", sorted(after.keys() - before.keys())),
        ("gone", sorted(before.keys() - after.keys())),
    ):
        for path in paths:
            log(f"  {word} since it was last fetched: {path}")
    if not changed and before.keys() == after.keys():
        log("  as it was when it was last fetched")


def _described(manifest: Manifest) -> str:
    return f"{counted(len(manifest.files), 'file')}, {size(manifest.bytes)}"
