"""Settings of ``scripts/gpu_check.py``. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clasp.strict import ConfigError

Part = Literal["llava", "waits", "next", "matrix", "processes"]
PARTS: tuple[Part, ...] = ("llava", "waits", "next", "matrix", "processes")
"""In this order, so that a run that is cut short has measured what only a large GPU tells."""


@dataclass(frozen=True)
class GpuCheckSettings:
    """What is checked.

    Args:
        geometry: ``full``, on a GPU alone, or ``small``, also on a CPU.
        parts: some of :data:`PARTS`.
        methods, families: of all parts; empty: the geometry's own.
        minutes: no part begins, and no further method of the matrix, once they are over.
        results: where ``bench/gpu_check_<geometry>.json`` and ``.md`` go.
    """

    geometry: Literal["full", "small"] = "full"
    parts: tuple[Part, ...] = PARTS
    methods: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    minutes: float = 7.5
    results: Path = Path("results")

    def validate(self) -> None:
        """Raises ConfigError for what nothing can be measured with."""
        if self.minutes <= 0:
            raise ConfigError(f"minutes={self.minutes:g} leaves no time; give it more than 0, for example minutes=7.5")
