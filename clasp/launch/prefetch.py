"""Manifests of prefetched models and data sets, and the check that jobs find them without network. Torch-free.

``<data>/prefetch/<backbone>.json`` and ``<data>/prefetch/datasets/<benchmark>.json`` list the files of a model and of a
data set in the hub's caches, with their SHA-256. ``download.py`` fetches the files and writes the manifests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from clasp.backbones.published import PUBLISHED
from clasp.config import RunConfig
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.files import file_digest, write_json
from clasp.launch.formatting import counted, size
from clasp.reading import InvalidFile
from clasp.results.provenance import now
from clasp.results.schema import load
from clasp.strict import ConfigError

SCHEMA = 2
Kind = Literal["model", "data"]


@dataclass(frozen=True)
class Manifest:
    """Files of one model or data set.

    Args:
        kind: the cache that holds them.
        name: repository on the hub, or benchmark.
        files: SHA-256 by path below that cache.
        revision: as requested; None: the hub's current commit.
        commit: the commit fetched; None for data sets, whose folders have it in their names.
    """

    kind: Kind
    name: str
    files: Mapping[str, str]
    revision: str | None = None
    commit: str | None = None

    @classmethod
    def of(cls, kind: Kind, name: str, paths: Iterable[Path], *where: str | None) -> Manifest:
        """The manifest of existing files; ``where``: revision and commit."""
        files = {str(path.relative_to(cache(kind))): file_digest(path) for path in sorted(set(paths))}
        return cls(kind, name, files, *where)

    @property
    def places(self) -> dict[str, Path]:
        return {path: cache(self.kind) / path for path in self.files}

    @property
    def described(self) -> str:
        total = sum(place.stat().st_size for place in self.places.values())
        return f"{counted(len(self.files), 'file')}, {size(total)}"

    def faults(self) -> dict[str, str]:
        """``missing`` or ``altered`` by path, of the files that are not as listed."""
        missing = {path: "missing" for path, place in self.places.items() if not place.is_file()}
        there = {path: place for path, place in self.places.items() if path not in missing}
        return missing | {path: "altered" for path, place in there.items() if file_digest(place) != self.files[path]}


def cache(kind: Kind) -> Path:
    """The hub's cache on this machine, as set in the environment."""
    from huggingface_hub import constants

    if kind == "model":
        return Path(constants.HF_HUB_CACHE)
    return Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()


def offline_environment() -> dict[str, str]:
    """Variables that make libraries read from the caches only; to be set before they are imported.

    Without the last one, lmms-eval would look on the node's local disk if the cache is on a network file system.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LMMS_EVAL_DATASETS_CACHE": str(cache("data")),
    }


def from_hub(config: RunConfig) -> bool:
    """Whether the backbone is a repository on the hub."""
    return config.backbone.source != "tiny" and not Path(config.backbone.source).expanduser().is_dir()


def hub_benchmarks(config: RunConfig) -> list[str]:
    """The configured benchmarks whose data sets are on the hub."""
    return [name for name in config.benchmarks.names if name in BENCHMARKS and BENCHMARKS[name].source == "hub"]


def commit(config: RunConfig) -> str | None:
    """The backbone's commit that was fetched and that jobs must use; None if it is not from the hub.

    Raises:
        ConfigError: it was not fetched, or another revision was.
    """
    if not from_hub(config):
        return None
    backbone, manifest = config.backbone, read(model_path(config))
    if manifest is None or manifest.name != backbone.source or manifest.commit is None:
        raise _missing(config, f"backbone {backbone.name} ({backbone.source}) has not been fetched")
    if backbone.revision not in (manifest.revision, manifest.commit):
        raise _missing(
            config, f"backbone {backbone.name} was fetched at {manifest.commit}, and {backbone.revision} is asked for"
        )
    return manifest.commit


def pinned(config: RunConfig) -> str | None:
    """Fingerprint of a backbone without its files: possible for known checkpoints at a full commit hash; else None."""
    backbone = config.backbone
    revision = backbone.revision or ""
    known = from_hub(config) and backbone.source in PUBLISHED and re.fullmatch("[0-9a-f]{40}", revision)
    return _fingerprint(config, revision) if known else None


def _fingerprint(config: RunConfig, commit: str) -> str:
    """As :func:`clasp.evaluation.identity.weights_fingerprint` of a hub's repository."""
    return f"hub:{config.backbone.source}@{commit}"


def check_prefetched(config: RunConfig, weights: str | None = None) -> None:
    """Checks that a run without network finds its model and its data sets, unaltered since they were fetched.

    Args:
        weights: fingerprint of the backbone in the run's plan; None: there is no plan yet.

    Raises:
        ConfigError: a file is missing or altered, or another commit was fetched; names the command to fetch it.
    """
    fetched = commit(config)
    if fetched is not None and weights not in (None, _fingerprint(config, fetched)):
        raise _missing(config, f"backbone {config.backbone.name} has moved on at the hub since {fetched} was fetched")
    manifests = [read(model_path(config))] if fetched is not None else []
    for name in hub_benchmarks(config):
        manifest = read(data_path(config, name))
        if manifest is None:
            raise _missing(config, f"the data set of benchmark {name} has not been fetched")
        manifests.append(manifest)
    for manifest in manifests:
        assert manifest is not None  # of the backbone, see above
        faults = manifest.faults() or _superseded(manifest)
        if faults:
            path, fault = next(iter(faults.items()))
            more = f" and {len(faults) - 1} more files" if len(faults) > 1 else ""
            raise _missing(config, f"{path}{more} of {manifest.name} is {fault}")


def _superseded(manifest: Manifest) -> dict[str, str]:
    """Folders of data sets with a newer version beside them, which would be loaded instead when offline."""
    folders = {cache("data") / path for path in {Path(path).parent for path in manifest.files}}
    return {
        str(folder.relative_to(cache("data"))): "older than another version that was loaded since"
        for folder in sorted(folders if manifest.kind == "data" else ())
        if any(other.is_dir() and other.stat().st_mtime > folder.stat().st_mtime for other in folder.parent.iterdir())
    }


def command(config: RunConfig) -> str:
    """The prefetch command to type on a machine that reaches the hub."""
    own = "" if config.data is None else f" data={config.data}"
    place = "" if config.paths.data == Path("data") else f" paths.data={config.paths.data}"
    names = ",".join(config.benchmarks.names)
    return f"clasp-eval prefetch backbone={config.backbone.name} 'benchmarks.names=[{names}]'{own}{place}"


def _missing(config: RunConfig, what: str) -> ConfigError:
    return ConfigError(f"{what}; where the hub can be reached, run: {command(config)}")


def model_path(config: RunConfig) -> Path:
    """Path of the backbone's manifest."""
    return config.paths.data / "prefetch" / f"{config.backbone.name}.json"


def data_path(config: RunConfig, benchmark: str) -> Path:
    """Path of the manifest of a benchmark's data set."""
    return config.paths.data / "prefetch" / "datasets" / f"{benchmark}.json"


def read(path: Path) -> Manifest | None:
    """A manifest; None if there is none that this version can read, which counts as not fetched."""
    try:
        manifest = load(Manifest, path, SCHEMA)
    except (OSError, InvalidFile):
        return None
    outside = any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest.files)
    return None if outside else manifest


def write(path: Path, manifest: Manifest) -> Path:
    return write_json(path, {"schema": SCHEMA, "at": now(), **asdict(manifest)})
