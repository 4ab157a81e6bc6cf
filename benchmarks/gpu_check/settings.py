"""Settings of ``scripts/gpu_check.py``. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clasp.strict import ConfigError

Part = Literal["llava", "waits", "next", "matrix"]
PARTS: tuple[Part, ...] = ("llava", "waits", "next", "matrix")
"""Parts in order of execution: an interrupted run has already done the checks that need a large GPU."""


@dataclass(frozen=True)
class GpuCheckSettings:
    """Settings of the check.

    Args:
        geometry: ``full``, which needs a GPU, or ``small``, which also runs on a CPU.
        parts: some of :data:`PARTS`.
        methods, families: used in all parts; empty: the geometry's defaults.
        minutes: after this time, no further part and no further method of the matrix is started.
        results: output folder of ``bench/gpu_check_<geometry>.json`` and ``.md``.
    """

    geometry: Literal["full", "small"] = "full"
    parts: tuple[Part, ...] = PARTS
    methods: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    minutes: float = 7.5
    results: Path = Path("results")

    def validate(self) -> None:
        """Raises ConfigError for values that allow no measurement."""
        if self.minutes <= 0:
            raise ConfigError(f"minutes={self.minutes:g} leaves no time; give it more than 0, for example minutes=7.5")
