"""Downloads models and data sets from the hub and checks them (``make prefetch``)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from clasp.backbones.hub import BackboneUnavailable
from clasp.config import RunConfig
from clasp.evaluation.benchmarks import get_benchmark
from clasp.launch import prefetch
from clasp.launch.prefetch import Manifest
from clasp.strict import ConfigError

PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
"""Files fetched from the top folder of a model's repository: no pickles, no code."""

Log = Callable[[str], object]


def fetch(config: RunConfig, log: Log = print) -> None:
    """Downloads everything that a run of this configuration needs.

    Files from earlier calls are checked; missing and altered ones are downloaded again and logged.

    Raises:
        BackboneUnavailable: the hub cannot be reached, and the model was not fetched before.
        ConfigError: the repository has no safetensors, or a data set cannot be loaded.
    """
    if prefetch.from_hub(config):
        _model(config, log)
    else:
        log(f"backbone {config.backbone.name}: on this machine")
    for name in prefetch.hub_benchmarks(config):
        _data(config, name, log)
    if config.router.name == "embedding":
        from clasp.methods.clasp.router import make_router

        make_router("embedding").route(["What color is the car?"])  # downloads its encoder, or says what to install
        log("router: its sentence encoder is here")


def _model(config: RunConfig, log: Log) -> None:
    from httpx2 import TransportError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    backbone, path = config.backbone, prefetch.model_path(config)
    try:
        found = HfApi().model_info(backbone.source, revision=backbone.revision, timeout=20)
    except HfHubHTTPError as error:
        raise BackboneUnavailable(
            f"the hub gives out no {backbone.source!r} at {backbone.revision or 'its current commit'}: "
            f"{' '.join(str(error).split())}"
        ) from error
    except (TransportError, OfflineModeIsEnabled, OSError):
        manifest = _held(config, prefetch.read(path))
        log(f"backbone {backbone.name}: the hub cannot be reached; {manifest.described} here, unaltered")
        return
    if not any(fnmatch(entry.rfilename, "*.safetensors") for entry in found.siblings or ()):
        raise ConfigError(f"backbone {backbone.source} has no safetensors; other formats are not loaded")
    assert found.sha is not None
    files = _downloaded(backbone.source, backbone.revision, found.sha, log)
    manifest = Manifest.of("model", backbone.source, files, backbone.revision, found.sha)
    log(f"backbone {backbone.name}: {backbone.source} at {found.sha}, {manifest.described}")
    earlier = prefetch.read(path)
    if earlier is not None and earlier.commit != found.sha:
        log(f"  it was at {earlier.commit} when it was last fetched")
    prefetch.write(path, manifest)


def _held(config: RunConfig, manifest: Manifest | None) -> Manifest:
    """The manifest of the model if it was fetched earlier and is unaltered.

    Raises:
        BackboneUnavailable: it was not fetched, or a file is missing or altered.
    """
    if manifest is None or manifest.name != config.backbone.source:
        raise BackboneUnavailable(
            f"the hub cannot be reached from here, and {config.backbone.source!r} was not fetched before; run this on "
            "a machine that reaches it, or name a mirror in HF_ENDPOINT"
        )
    prefetch.commit(config)
    for path, fault in manifest.faults().items():
        raise BackboneUnavailable(f"{path} is {fault}, and the hub cannot be reached to fetch it again")
    return manifest


def _downloaded(source: str, revision: str | None, commit: str, log: Log) -> list[Path]:
    """Downloads a model; returns the paths of its files, all with the hashes that the hub lists."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    # by branch if no revision is pinned, so that the cache records the branch's commit
    folder = Path(snapshot_download(source, revision=revision, allow_patterns=PATTERNS, ignore_patterns="*/*"))
    for attempt in range(2):
        altered = [one["path"] for one in HfApi().verify_repo_checksums(source, revision=commit).mismatches]
        for name in altered:
            if attempt:
                raise BackboneUnavailable(f"{name} of {source} does not arrive as the hub lists it; try again later")
            log(f"  {name} in the cache is not the hub's; fetching it again")
            hf_hub_download(source, name, revision=commit, force_download=True)
    return [path for path in folder.iterdir() if any(fnmatch(path.name, pattern) for pattern in PATTERNS)]


def _data(config: RunConfig, name: str, log: Log) -> None:
    path = prefetch.data_path(config, name)
    earlier = prefetch.read(path)
    for file, fault in (earlier.faults() if earlier is not None else {}).items():
        log(f"  {file} is {fault}; making it again")
        shutil.rmtree((prefetch.cache("data") / file).parent, ignore_errors=True)
    manifest = Manifest.of("data", name, _loaded(config, name))
    log(f"benchmark {name}: {manifest.described}")
    prefetch.write(path, manifest)


def _loaded(config: RunConfig, name: str) -> list[Path]:
    """Loads a benchmark as a run does, including its first image; returns the files of its data set.

    Raises:
        ConfigError: it cannot be loaded.
    """
    from tenacity import RetryError

    os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(prefetch.cache("data"))  # not the login node's local disk
    from clasp.evaluation import lmms

    benchmark = get_benchmark(name)
    try:
        next(lmms.documents(benchmark, config))
        return lmms.files(benchmark, config)
    except (OSError, ValueError, RetryError) as error:
        cause = error.last_attempt.exception() if isinstance(error, RetryError) else error
        raise ConfigError(
            f"the data set of benchmark {name} cannot be had ({' '.join(str(cause).split())}); where it needs an "
            "account, log in with 'hf auth login'"
        ) from error
