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

from clasp.methods import METHODS

__version__ = "0.2.0"

_EXPORTS = {entry.class_name: entry.module for entry in METHODS.values()} | {"load": "clasp.backbones"}
__all__ = [*_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'clasp' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
