"""The model hub: the commit that a name stands for, with a quick error where no hub can be reached."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from clasp.fingerprint import folder_fingerprint
from clasp.tiny import CLIP_FOLDER


def own_text_tower(source: str) -> str | None:
    """The CLIP model that a backbone's folder brings, for methods that read text; None where it brings none.

    Args:
        source: folder of the backbone; a hub id brings none.
    """
    folder = Path(source).expanduser() / CLIP_FOLDER
    return str(folder) if (folder / "config.json").is_file() else None


class BackboneUnavailable(OSError):
    """The backbone's files are not on this machine and cannot be fetched; the message names the remedy."""


def hub_commit(name: str, revision: str | None = None) -> str:
    """Commit of a hub repository: the hub's answer, or the cached copy's where the hub cannot be reached.

    One request, no retries: transformers' own loaders try each file several times, minutes in all, before they give up.

    Raises:
        BackboneUnavailable: there is neither.
    """
    return _look_up(name, revision)[0]


def hub_names(name: str, commit: str) -> frozenset[str]:
    """Names of a hub repository's files at a commit: the hub's answer, or those that are cached."""
    return _look_up(name, commit)[1]


def hub_file(name: str, file: str, commit: str) -> Path:
    """One file of a hub repository, fetched where it is not cached.

    Raises:
        BackboneUnavailable: it is not cached and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=commit))
    except (OSError, ValueError) as error:
        raise unavailable(name, commit) from error


def part_fingerprint(source: str) -> str:
    """Names a model that a method reads beside the backbone: the files of a folder, or a hub repository at its commit.

    Where no hub can be asked and nothing is cached it is the name alone, and the model cannot be loaded either.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder_fingerprint(folder, nested=True)
    try:
        return f"hub:{source}@{hub_commit(source)}"
    except BackboneUnavailable:
        return f"hub:{source}"


@lru_cache(maxsize=16)
def _look_up(name: str, revision: str | None) -> tuple[str, frozenset[str]]:
    """Commit and file names, from one request."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise no_folder(name) from error
    if revision is not None and (".." in revision or not re.fullmatch(r"[\w./-]{1,100}", revision)):
        raise BackboneUnavailable(
            f"backbone.revision={revision[:100]!r} is no commit, branch or tag; give one, or null"
        )
    try:
        info = HfApi().model_info(name, revision=revision, timeout=20)
    except Exception as error:  # of any kind: only whether a cached copy is here matters
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            folder = Path(cached).parent
            return folder.name, frozenset(path.name for path in folder.iterdir())
        raise unavailable(name, revision) from error
    if not info.sha:
        raise BackboneUnavailable(f"the hub names no commit for {name!r}; give a revision")
    return info.sha, frozenset(file.rfilename for file in info.siblings or ())


def no_folder(name: str) -> BackboneUnavailable:
    """The error for a name that is no folder here and cannot be a repository."""
    return BackboneUnavailable(
        f"backbone {name!r} is a folder that is not on this machine, and no name of a hub repository (owner/name); "
        f"give the path of a folder with the model's files, or use backbone=tiny"
    )


def unavailable(name: str, revision: str | None = None) -> BackboneUnavailable:
    """The error for a backbone that cannot be had here."""
    pinned = f" at revision {revision[:12]} (backbone.revision)" if revision else ""
    option = f" --revision {revision}" if revision else ""
    return BackboneUnavailable(
        f"backbone {name!r} is not on this machine{pinned} and no model hub could be asked for it; fetch it where one "
        f"can be reached (make prefetch, or hf download {name}{option}), name a local folder, or use backbone=tiny"
    )
