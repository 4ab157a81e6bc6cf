"""Visual-token pruning for multimodal language models: CLASP and its baselines in one engine.

    from clasp import CLASP, load

    model, processor = load("tiny")
    with CLASP(tokens=64)(model, processor) as run:
        out = model.generate(**inputs, max_new_tokens=16)
    run.trace

Names load on first use: importing the package pulls in neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_EXPORTS = {
    "CDPruner": "clasp.methods.cdpruner",
    "CLASP": "clasp.methods.clasp",
    "DART": "clasp.methods.dart",
    "DivPrune": "clasp.methods.divprune",
    "EVS": "clasp.methods.evs",
    "FasterVLM": "clasp.methods.fastervlm",
    "FastV": "clasp.methods.fastv",
    "FastVID": "clasp.methods.fastvid",
    "FrameFusion": "clasp.methods.framefusion",
    "HiPrune": "clasp.methods.hiprune",
    "HiRED": "clasp.methods.hired",
    "HoliTom": "clasp.methods.holitom",
    "HoloV": "clasp.methods.holov",
    "MMTok": "clasp.methods.mmtok",
    "MustDrop": "clasp.methods.mustdrop",
    "PDrop": "clasp.methods.pdrop",
    "Pool": "clasp.methods.pool",
    "PruMerge": "clasp.methods.prumerge",
    "PruMergePlus": "clasp.methods.prumerge",
    "PruneSID": "clasp.methods.prunesid",
    "Random": "clasp.methods.random",
    "RandomInside": "clasp.methods.random",
    "SCOPE": "clasp.methods.scope",
    "SparseVLM": "clasp.methods.sparsevlm",
    "Stride": "clasp.methods.stride",
    "ToMe": "clasp.methods.tome",
    "Unpruned": "clasp.methods.none",
    "VidCom2": "clasp.methods.vidcom2",
    "VisionZip": "clasp.methods.visionzip",
    "VisPruner": "clasp.methods.vispruner",
    "VScan": "clasp.methods.vscan",
    "load": "clasp.backbones",
}
__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clasp' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
