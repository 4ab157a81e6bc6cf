"""What a backbone's files may do: weights in safetensors and transformers' own code, unless a switch allows more.

A pickle runs what it likes when it is read, and so does a repository's own code. Both are found from names and JSON
files alone, before a configuration, a processor or a weight is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clasp.backbones.hub import BackboneUnavailable, hub_commit, hub_file, hub_names
from clasp.backbones.published import CONVERTED
from clasp.reading import InvalidFile, read_json

CODE = "auto_map"
"""Key of a JSON file that names a repository's own classes."""
CONFIGS = (
    *("config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
    *("tokenizer_config.json", "generation_config.json"),
)
"""Files that can name code."""
SAFE, PICKLES = re.compile(r"model.*\.safetensors(\.index\.json)?"), (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Names of weights that transformers reads (no adapter's, none in a subfolder), and endings of pickles."""


class BackboneRefused(BackboneUnavailable):
    """Loading it would run code of its own; the message names what would, and the switch that allows it."""


@dataclass(frozen=True)
class Trust:
    """What a user allows of a backbone; :func:`clasp.load` and ``BackboneConfig`` have the same two switches.

    Args:
        allow_pickle: weights as a pickle, where there are none in safetensors.
        trust_remote_code: classes of the repository's own.
    """

    allow_pickle: bool = False
    trust_remote_code: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        """The switches that are on, by name."""
        return tuple(name for name in ("allow_pickle", "trust_remote_code") if getattr(self, name))


NOTHING = Trust()


def check_trust(source: str, revision: str | None = None, trust: Trust = NOTHING, weights: bool = True) -> None:
    """Checks a folder or hub repository by its files' names and its configurations, which is quick.

    Args:
        source: local folder or hub id.
        revision: of the hub repository.
        trust: what is allowed.
        weights: whether the weights are going to be read.

    Raises:
        BackboneRefused: it has pickled weights alone, or code of its own, and that is not allowed; or transformers does
            not load its format.
        BackboneUnavailable: it is not here and the hub cannot be asked, or one of its configurations cannot be read.
    """
    if source in CONVERTED:
        raise BackboneRefused(
            f"backbone {source!r} is in the format of the model's own code; use {CONVERTED[source]}, the same weights "
            "in transformers' format"
        )
    names = set(_names(source, revision))
    if weights and not trust.allow_pickle and not any(SAFE.fullmatch(name) for name in names):
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        if pickles:
            raise BackboneRefused(
                f"backbone {source!r} has its weights as a pickle alone ({pickles[0]}), which can run any code when it "
                "is read; save it in safetensors (docs/real-models.md says how) and name that folder, or allow it with "
                "backbone.allow_pickle=true (allow_pickle=True in clasp.load)"
            )
    for name in sorted(names.intersection(CONFIGS)):
        _check_code(source, name, _content(source, name, revision), trust)


def _check_code(source: str, name: str, content: object, trust: Trust) -> None:
    named = content.get(CODE) if isinstance(content, dict) else None
    if not named:
        return
    if not trust.trust_remote_code:
        raise BackboneRefused(
            f"backbone {source!r} wants to run code of its own ({CODE} in {name}); use a repository in transformers' "
            "format, or read that code and allow it with backbone.trust_remote_code=true (trust_remote_code=True in "
            "clasp.load)"
        )
    if foreign := [reference for reference in _references(named) if "--" in reference]:
        raise BackboneRefused(
            f"backbone {source!r} takes code from another repository ({foreign[0]} in {name}), which no revision pins; "
            "copy that code into a local folder beside the weights"
        )


def _references(named: object) -> list[str]:
    """Every class that an ``auto_map`` names."""
    if isinstance(named, dict):
        return [reference for value in named.values() for reference in _references(value)]
    if isinstance(named, list):
        return [reference for value in named for reference in _references(value)]
    return [named] if isinstance(named, str) else []


def _names(source: str, revision: str | None) -> Iterable[str]:
    folder = Path(source).expanduser()
    if os.path.isdir(folder):
        return [path.name for path in folder.iterdir()]
    return hub_names(source, hub_commit(source, revision))


def _content(source: str, name: str, revision: str | None) -> object:
    folder = Path(source).expanduser()
    path = folder / name if os.path.isdir(folder) else hub_file(source, name, hub_commit(source, revision))
    try:
        return read_json(path)
    except (InvalidFile, OSError) as error:
        raise BackboneUnavailable(f"backbone {source!r} cannot be read: {error}; fetch or save it again") from error
