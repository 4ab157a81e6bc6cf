"""Keeps what Hydra itself writes free of home folders and secrets; named in ``configs/config.yaml``. Torch-free.

Hydra's own copies of the configuration hold whole paths, and say nothing that cells and experiments do not: none is
written for a job (``hydra.output_subdir: null``). Of a sweep, Hydra's sweeper writes ``multirun.yaml`` in any case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from clasp.files import write_atomically
from clasp.redact import redact
from clasp.strict import check_name

TARGETS = (
    *("clasp.evaluation.hydra_files.Redacted", "hydra._internal.core_plugins.*", "hydra_plugins.*"),
    *("logging.StreamHandler", "logging.FileHandler"),
)
"""What a configuration may name under ``_target_``; with anything else there Hydra could be made to run any code."""


def _name(value: str) -> str:
    return check_name("name", str(value))


# ${clasp.name:${name}}: a name that becomes part of a path, checked before Hydra makes a folder of it
OmegaConf.register_resolver("clasp.name", _name, replace=True)


class Redacted(Callback):
    """Redacts a sweep's ``multirun.yaml`` when the sweep ends, and first what one that was killed left behind."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self._clean(config)

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        self._clean(config)

    @staticmethod
    def _clean(config: Any) -> None:
        path = Path(str(config.hydra.sweep.dir)) / "multirun.yaml"
        if path.is_file():
            write_atomically(path, redact(path.read_text(encoding="utf-8")).encode())
