"""Estimates the seconds and bytes that cells will take, and says whether that is based on measurements. Torch-free.

The time per question comes from stored cells of the same backbone on the same device. For a method or budget without
such a cell, the prefill's share of that time is scaled by the cost model's multiply-adds. If nothing was measured,
assumed throughputs are used (:class:`Throughput`), and the estimate says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from clasp.budget import Geometry
from clasp.cost import prefill_flops
from clasp.results.answer_log import RESUMED
from clasp.results.schema import Cell, read
from clasp.results.store import CellSpec, CellStore

if TYPE_CHECKING:
    from clasp.config import RunConfig
    from clasp.evaluation.plan import Plan

TERA = 1e12
Basis = Literal["measured", "scaled", "assumption"]
"""Measured: the same method, budget and benchmark; scaled: from other cells; assumption: nothing was measured."""


class Size(NamedTuple):
    """The size of a benchmark on the hub, for estimates before any of its cells exists.

    Args:
        questions: how many ``limit=all`` asks, according to ``source``.
        new_tokens: assumed tokens of an answer, including the end token.
    """

    questions: int
    source: str
    new_tokens: float = 3.0


SIZES: dict[str, Size] = {
    "gqa": Size(12_578, "test-dev balanced, Hudson and Manning 2019 (arXiv 1902.09506)"),
    "mmbench": Size(4_329, "English dev, circular, Liu et al. 2023 (arXiv 2307.06281)"),
    "mme": Size(2_374, "14 subtasks, Fu et al. 2023 (arXiv 2306.13394)"),
    "pope": Size(9_000, "three splits of 3,000, Li et al. 2023 (arXiv 2305.10355)"),
    "sqa": Size(2_017, "test questions with images, Lu et al. 2022 (arXiv 2209.09513)"),
    "vqav2": Size(214_354, "validation, Goyal et al. 2017 (arXiv 1612.00837)"),
    "vqav2_testdev": Size(107_394, "test-dev, Goyal et al. 2017 (arXiv 1612.00837)"),
    "textvqa": Size(5_000, "validation, Singh et al. 2019 (arXiv 1904.08920)"),
    "textvqa_ocr": Size(5_000, "validation, Singh et al. 2019 (arXiv 1904.08920)"),
    "mmvet": Size(218, "Yu et al. 2023 (arXiv 2308.02490)", new_tokens=100.0),
}
"""Published benchmarks, for plans made before their data sets are downloaded."""


class Throughput(NamedTuple):
    """Assumed speed of a machine on which nothing was measured.

    Args:
        tmacs: decoder prefill, in 1e12 multiply-adds per second.
        token_s: seconds per generated token of one question in a batch.
        other_s: seconds per question for everything else (ViT, images, scoring).
    """

    tmacs: float
    token_s: float
    other_s: float


ASSUMED = {"gpu": Throughput(60.0, 0.005, 0.05), "cpu": Throughput(0.03, 0.002, 0.06)}
"""A current data-centre GPU at about 40 % of its 16-bit peak, and one core of a server."""
ASSUMED_TEXT_TOKENS, ASSUMED_NEW_TOKENS = 50.0, 3.0
ASSUMED_BYTES = 300.0
"""Per question."""


@dataclass(frozen=True)
class Estimate:
    """Of one cell: questions, seconds of one process on one device, bytes on disk, and the basis of the seconds."""

    questions: int
    seconds: float
    bytes: float
    basis: Basis


class _Stored(NamedTuple):
    """A stored cell, :func:`clock` of it, and the size of its two files."""

    cell: Cell
    clock: float | None
    bytes: int


class Estimator:
    """Estimates cells of one backbone from the stored cells of a results root.

    Args:
        results: the results root; may be empty or absent.
        device: as in the configuration: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``. If nothing was measured,
            ``auto`` means a CPU for the tiny backbone and a GPU for all others.
        known_questions: number of questions by name, of the benchmarks whose files are on this machine.

    Attributes:
        device: model name of the processor that the estimates are based on; None: nothing was measured.
        on_cpu: whether the estimates are for a CPU, else for a GPU.
        throughput: the assumption if nothing was measured.
    """

    def __init__(
        self,
        results: Path,
        backbone: str,
        geometry: Geometry,
        device: str,
        known_questions: Mapping[str, int],
    ) -> None:
        self._stored = list(_all_stored(results))
        own = [one for one in self._stored if one.cell["backbone"] == backbone and one.clock is not None]
        fitting = [one for one in own if device == "auto" or _is_cpu(_device(one)) == (device == "cpu")]
        newest = max(fitting, key=lambda one: one.cell["provenance"]["finished"], default=None)
        self.device = _device(newest) if newest else None
        self._measured = [one for one in fitting if _device(one) == self.device]
        assumed = device == "cpu" or (device == "auto" and backbone == "tiny")
        self.on_cpu = assumed if self.device is None else _is_cpu(self.device)
        self.throughput = ASSUMED["cpu" if self.on_cpu else "gpu"]
        self._geometry = geometry
        self._known = {one.cell["benchmark"]: one.cell["available"] for one in self._stored} | dict(known_questions)

    def of(self, spec: CellSpec) -> Estimate:
        """The estimate of one cell."""
        questions = self.questions(spec)
        seconds, basis = self._seconds(spec)
        return Estimate(questions, questions * seconds, questions * self._bytes(spec.benchmark), basis)

    def questions(self, spec: CellSpec) -> int:
        """Questions of a cell: from the benchmark's local files, else from stored cells, else as published."""
        offered = self._known.get(spec.benchmark) or SIZES[spec.benchmark].questions
        return offered if spec.limit == "all" else min(int(spec.limit), offered)

    def published(self, spec: CellSpec) -> bool:
        """Whether :meth:`questions` returns the published number, because nothing else is known."""
        if spec.benchmark in self._known:
            return False
        return spec.limit == "all" or int(spec.limit) >= SIZES[spec.benchmark].questions

    def _seconds(self, spec: CellSpec) -> tuple[float, Basis]:
        """Per question."""
        method, tokens = str(spec.method["name"]), int(spec.budget["tokens"])
        if not self._measured:
            return self._assumed(spec.benchmark, tokens), "assumption"
        same = [one for one in self._measured if one.cell["benchmark"] == spec.benchmark]
        exact = [one for one in same if (one.cell["method"], one.cell["budget"]["tokens"]) == (method, tokens)]
        near = exact or same or self._measured
        usual = sum(one.clock or 0.0 for one in near) / sum(one.cell["questions"] for one in near)
        if exact:
            return usual, "measured"
        costs = [one.cell["costs"] for one in near]
        measured = fmean(cost["tflops"]["gated"] for cost in costs)
        scale = self._tmacs(tokens, fmean(cost["text_tokens"] for cost in costs)) / measured
        spent = {name: fmean(cost["seconds"][name] for cost in costs) for name in ("vision", "prefill", "decode")}
        return usual * (1.0 + spent["prefill"] / sum(spent.values()) * (scale - 1.0)), "scaled"

    def _assumed(self, benchmark: str, tokens: int) -> float:
        new = SIZES[benchmark].new_tokens if benchmark in SIZES else ASSUMED_NEW_TOKENS
        prefill = self._tmacs(tokens, ASSUMED_TEXT_TOKENS) / self.throughput.tmacs
        return prefill + new * self.throughput.token_s + self.throughput.other_s

    def _tmacs(self, tokens: float, text_tokens: float) -> float:
        """1e12 multiply-adds of a prefill with ``tokens`` visual tokens on average over the layers."""
        return prefill_flops(self._geometry, [tokens] * self._geometry.layers, text_tokens) / TERA

    def _bytes(self, benchmark: str) -> float:
        """Per question."""
        stored = [one for one in self._stored if one.cell["benchmark"] == benchmark] or self._stored
        if not stored:
            return ASSUMED_BYTES
        return sum(one.bytes for one in stored) / sum(one.cell["questions"] for one in stored)


def estimator_of(planned: Plan, config: RunConfig) -> Estimator:
    """The estimator for the cells of a plan."""
    known = {name: file.questions for name, file in planned.files.items()}
    return Estimator(config.paths.results, config.backbone.name, planned.geometry, config.device, known)


def clock(cell: Mapping[str, Any]) -> float | None:
    """Duration of a stored cell in seconds; None if it was resumed, as its start is then that of the last process."""
    made = cell["provenance"]
    if any(event["event"] == RESUMED for event in made.get("events", ())):
        return None
    passed = datetime.fromisoformat(made["finished"]) - datetime.fromisoformat(made["started"])
    return max(1.0, passed.total_seconds())  # both times are rounded to seconds


def _all_stored(results: Path) -> Iterator[_Stored]:
    """All readable cells; unreadable ones are left to the next run, which reports them."""
    store = CellStore(results)
    for signature in store.signatures():
        with contextlib.suppress(OSError, ValueError, KeyError):
            cell = read(Cell, store.path(signature))
            size = sum(store.path(signature, kind).stat().st_size for kind in ("json", "jsonl"))
            yield _Stored(cell, clock(cell), size)


def _device(stored: _Stored) -> str:
    return stored.cell["costs"]["device"]


def _is_cpu(device: str) -> bool:
    """Whether a device's name in results is a CPU's, which ends with its number of threads."""
    return device.endswith(" threads)")
