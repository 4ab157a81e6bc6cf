"""What lmms-eval finds under the entry point ``lmms_eval.models``: the model ``clasp``. Imports nothing heavy."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """lmms-eval's declaration of our model class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="clasp", simple_class_path="clasp.evaluation.model.ClaspModel")
