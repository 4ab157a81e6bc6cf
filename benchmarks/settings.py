"""Settings of ``scripts/bench.py``. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clasp.strict import ConfigError

Measure = Literal["methods", "ops", "growth", "profile"]
REPEATS: dict[Measure, int] = {"methods": 3, "ops": 25, "growth": 3, "profile": 1}
SIZES: dict[Measure, tuple[int, ...]] = {
    "ops": (576, 2880),
    "growth": (256, 512, 1024, 2048, 4096, 8192, 16384),
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the measurement.

    Args:
        measure: ``methods`` on a geometry; selection ``ops`` against one matrix product of their size; the ``growth``
            of both with the number of visual tokens; or a ``profile`` of each part's time by operator.
        geometry: one of :data:`benchmarks.models.GEOMETRIES`; for ``ops`` it sets the width.
        tokens: visual tokens kept per image or video (output average); None: the geometry's default budget.
        batches: batch sizes, at least 1; empty: the geometry's; ``methods`` and ``profile`` only.
        sizes: numbers of visual tokens in ascending order; ``ops`` and ``growth`` only; empty: those of :data:`SIZES`.
        repeats: timed rounds, at least 1; None: those of :data:`REPEATS`.
        methods: names; empty: all, for ``growth`` those of :data:`benchmarks.growth.METHODS`, for ``profile`` CLASP.
        dtype: data type of the model; ``ops`` use float32.
    """

    measure: Measure = "methods"
    geometry: str = "small"
    tokens: int | None = None
    batches: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    repeats: int | None = None
    methods: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    threads: int | None = None
    results: Path = Path("results")

    @property
    def rounds(self) -> int:
        return self.repeats or REPEATS[self.measure]

    @property
    def counts(self) -> tuple[int, ...]:
        return self.sizes or SIZES[self.measure]

    @property
    def stem(self) -> str:
        """File name in ``<results>/bench`` without suffix: ``small`` for ``methods``, ``small_ops`` and so on."""
        return self.geometry if self.measure == "methods" else f"{self.geometry}_{self.measure}"

    def validate(self) -> None:
        """Raises ConfigError for numbers that allow no measurement."""
        numbers = [number for number in (self.tokens, self.repeats, self.threads) if number is not None]
        if min((*numbers, *self.batches, *self.sizes), default=1) < 1:
            raise ConfigError(
                "tokens, batches, sizes, repeats and threads are whole numbers of at least 1, for example batches=1,8"
            )
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ConfigError(f"sizes={','.join(map(str, self.sizes))} do not rise; write the smallest first")
