"""Pruning methods, one file each.

Names resolve lazily, so that asking which methods exist costs nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clasp.methods.base import Method

METHODS: dict[str, tuple[str, str]] = {
    "none": ("clasp.methods.none", "Unpruned"),
    "random": ("clasp.methods.random", "Random"),
    "random_inside": ("clasp.methods.random", "RandomInside"),
    "stride": ("clasp.methods.stride", "Stride"),
    "pool": ("clasp.methods.pool", "Pool"),
    "tome": ("clasp.methods.tome", "ToMe"),
    "fastv": ("clasp.methods.fastv", "FastV"),
    "prumerge": ("clasp.methods.prumerge", "PruMerge"),
    "prumerge_plus": ("clasp.methods.prumerge", "PruMergePlus"),
    "hired": ("clasp.methods.hired", "HiRED"),
    "pdrop": ("clasp.methods.pdrop", "PDrop"),
    "sparsevlm": ("clasp.methods.sparsevlm", "SparseVLM"),
    "mustdrop": ("clasp.methods.mustdrop", "MustDrop"),
    "fastervlm": ("clasp.methods.fastervlm", "FasterVLM"),
    "visionzip": ("clasp.methods.visionzip", "VisionZip"),
    "vispruner": ("clasp.methods.vispruner", "VisPruner"),
    "dart": ("clasp.methods.dart", "DART"),
    "divprune": ("clasp.methods.divprune", "DivPrune"),
    "cdpruner": ("clasp.methods.cdpruner", "CDPruner"),
    "vscan": ("clasp.methods.vscan", "VScan"),
    "hiprune": ("clasp.methods.hiprune", "HiPrune"),
    "mmtok": ("clasp.methods.mmtok", "MMTok"),
    "holov": ("clasp.methods.holov", "HoloV"),
    "scope": ("clasp.methods.scope", "SCOPE"),
    "prunesid": ("clasp.methods.prunesid", "PruneSID"),
    "evs": ("clasp.methods.evs", "EVS"),
    "vidcom2": ("clasp.methods.vidcom2", "VidCom2"),
    "fastvid": ("clasp.methods.fastvid", "FastVID"),
    "holitom": ("clasp.methods.holitom", "HoliTom"),
    "framefusion": ("clasp.methods.framefusion", "FrameFusion"),
    "clasp": ("clasp.methods.clasp", "CLASP"),
}
"""Name on the command line and in results -> module and class."""


def get(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; use one of {', '.join(METHODS)}{_did_you_mean(name, METHODS)}")
    module, class_name = METHODS[name]
    return getattr(importlib.import_module(module), class_name)


def for_pictures() -> tuple[str, ...]:
    """Names of the methods that need no video, so that they also run on backbones that take none."""
    return tuple(name for name in METHODS if not get(name).needs_videos)


def build(name: str, parameters: Mapping[str, Any]) -> Method:
    """A method from its name and parameters.

    Raises:
        ValueError: an unknown method, parameter or value.
    """
    method = get(name)
    known = [f.name for f in dataclasses.fields(method)]
    unknown = [key for key in parameters if key not in known]
    if unknown:
        raise ValueError(
            f"method {name!r} has no parameter {unknown[0]!r}; it takes {', '.join(known)}"
            f"{_did_you_mean(unknown[0], known)}"
        )
    return method(**parameters)


def _did_you_mean(name: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
