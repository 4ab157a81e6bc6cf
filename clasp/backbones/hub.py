"""The model hub: which commit a name stands for, and a quick answer where no hub can be reached."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


class BackboneUnavailable(OSError):
    """The backbone's files are neither on this machine nor to be had; the message is one sentence with the remedy."""


@lru_cache(maxsize=8)
def hub_commit(name: str, revision: str | None = None) -> str:
    """Commit of a hub repository: the hub's answer, or the cached copy's where the hub cannot be reached.

    One request, no retries: transformers' own loaders try each file several times, minutes in all, before they give up.

    Raises:
        BackboneUnavailable: neither is to be had.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache

    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise unavailable(name)  # a folder that is not there, not a repository
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=20).sha
    except Exception as error:  # whatever the transport raises, what matters is whether a cached copy is here
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
        raise unavailable(name) from error
    if not commit:
        raise BackboneUnavailable(f"the hub names no commit for {name!r}; give a revision")
    return commit


def unavailable(name: str) -> BackboneUnavailable:
    """The error for a backbone that cannot be had here."""
    return BackboneUnavailable(
        f"backbone {name!r} is not on this machine and no model hub could be asked for it; fetch it where one can be "
        f"reached (hf download {name}), name a local folder, or use backbone=tiny"
    )
