"""The configuration of a run as frozen dataclasses, and :func:`load_config`, which builds them. Torch-free.

Hydra composes a configuration, the entry point converts it to a dictionary, and :func:`load_config` makes a
:class:`RunConfig` of it or says in one sentence what is wrong. Library code never sees a ``DictConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clasp.config.checks import check
from clasp.config.schema import (
    OWN_DATA,
    BackboneConfig,
    CategoryConfig,
    FusionConfig,
    GridConfig,
    LauncherConfig,
    MethodConfig,
    PolicyConfig,
    RouterConfig,
    RunConfig,
    VariantConfig,
    WandbConfig,
    rows_hash,
)
from clasp.strict import build

__all__ = [
    "OWN_DATA",
    "BackboneConfig",
    "CategoryConfig",
    "FusionConfig",
    "GridConfig",
    "LauncherConfig",
    "MethodConfig",
    "PolicyConfig",
    "RouterConfig",
    "RunConfig",
    "VariantConfig",
    "WandbConfig",
    "load_config",
    "rows_hash",
]


def load_config(values: Mapping[str, Any]) -> RunConfig:
    """A :class:`RunConfig` from a plain dictionary.

    Raises:
        ConfigError: an unknown key (the known ones are listed), a value of the wrong type or out of bounds, or
            values that contradict each other.
    """
    config = build(RunConfig, values)
    check(config)
    return config
