"""What cells will take, before they run: seconds and bytes, and whether that rests on measurements. Torch-free.

A question costs its ViT, prefill and decode seconds. Stored cells of the same backbone on the same device say what they
are; for a method, budget or benchmark that none of them has, prefill is scaled by the cost model's multiply-adds. Where
nothing was measured, assumed throughputs stand in (:class:`Throughput`), and every estimate says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from clasp.budget import Geometry
from clasp.cost import prefill_flops
from clasp.launch.benchmark_sizes import SIZES
from clasp.results.answer_log import RESUMED
from clasp.results.schema import Cell, read
from clasp.results.store import CellSpec, CellStore

TERA = 1e12
Basis = Literal["measured", "scaled", "assumption"]
"""The same method, budget and benchmark was measured; other cells were; nothing was."""


class Throughput(NamedTuple):
    """How fast a machine is taken to be where nothing was measured on it. All of it is assumption.

    ``tmacs``: decoder prefill, 1e12 multiply-adds a second; ``token_s``: seconds per generated token of one question in
    a batch; ``other_s``: seconds per question beside them (ViT, pictures, scoring).
    """

    tmacs: float
    token_s: float
    other_s: float


ASSUMED = {"gpu": Throughput(60.0, 0.005, 0.05), "cpu": Throughput(0.03, 0.002, 0.06)}
"""A current data-centre GPU at about 40 % of its 16-bit peak, and one core of a server."""
ASSUMED_TEXT_TOKENS, ASSUMED_NEW_TOKENS = 50.0, 3.0
ASSUMED_CELL_BYTES, ASSUMED_ANSWER_BYTES = 2_500.0, 300.0


@dataclass(frozen=True)
class Estimate:
    """Of one cell: questions asked, seconds of one process on one device, bytes on disk, what the seconds rest on."""

    questions: int
    seconds: float
    bytes: float
    basis: Basis


@dataclass(frozen=True)
class _Stored:
    """Times and sizes of a stored cell; seconds and tokens are means per question."""

    backbone: str
    method: str
    tokens: int
    benchmark: str
    device: str
    finished: str
    questions: int
    available: int
    text_tokens: float
    tmacs: float
    vision: float
    prefill: float
    decode: float
    clock: float
    """:func:`clock`, 0 where that is None; ViT outputs that were reused count in ``vision`` and not here."""
    cell_bytes: int
    answer_bytes: int


class Estimator:
    """Estimates cells of one backbone from what a results root holds.

    Args:
        results: the results root; may be empty or absent.
        backbone: its name in results.
        geometry: of the backbone.
        device: as in the configuration: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        known_questions: questions of the benchmarks whose files are on this machine, by name.
        assumed_tmacs: prefill's speed where nothing was measured, as in :class:`Throughput`; None, and all else:
            :data:`ASSUMED` for the kind of device, where ``auto`` is a GPU for all but the tiny backbone.

    Attributes:
        device: model name of the processor that measured the cells that estimates rest on; None: nothing was measured.
        on_cpu: whether the estimates are for a CPU, else for a GPU.
        throughput: what is taken where nothing was measured.
    """

    def __init__(
        self,
        results: Path,
        backbone: str,
        geometry: Geometry,
        device: str,
        known_questions: Mapping[str, int],
        assumed_tmacs: float | None = None,
    ) -> None:
        self._stored = list(_all_stored(results))
        own = [one for one in self._stored if one.backbone == backbone]
        fitting = [one for one in own if device == "auto" or _is_cpu(one.device) == (device == "cpu")]
        newest = max((one for one in fitting if one.clock), key=lambda one: one.finished, default=None)
        self.device = newest.device if newest else None
        self._measured = [one for one in fitting if one.device == self.device and one.clock]
        assumed = device == "cpu" or (device == "auto" and backbone == "tiny")
        self.on_cpu = assumed if self.device is None else _is_cpu(self.device)
        usual = ASSUMED["cpu" if self.on_cpu else "gpu"]
        self.throughput = usual if assumed_tmacs is None else usual._replace(tmacs=assumed_tmacs)
        self._geometry, self._known = geometry, known_questions
        self._available = {one.benchmark: one.available for one in self._stored}

    def of(self, spec: CellSpec) -> Estimate:
        """The estimate of one cell."""
        questions = self.questions(spec)
        seconds, basis = self._seconds(spec)
        return Estimate(questions, questions * seconds, self._disk(spec, questions), basis)

    def questions(self, spec: CellSpec) -> int:
        """How many the cell asks: of the files that are here, of stored cells, or of the published benchmark."""
        name = spec.benchmark
        offered = self._known.get(name) or self._available.get(name) or SIZES[name].questions
        return offered if spec.limit == "all" else min(int(spec.limit), offered)

    def published(self, spec: CellSpec) -> bool:
        """Whether only the published benchmark says how many questions there are, and that decides."""
        name = spec.benchmark
        known = name in self._known or name in self._available
        return not known and (spec.limit == "all" or int(spec.limit) >= SIZES[name].questions)

    def _seconds(self, spec: CellSpec) -> tuple[float, Basis]:
        """Per question."""
        method, tokens = str(spec.method["name"]), int(spec.budget["tokens"])
        if not self._measured:
            return self._assumed(spec.benchmark, tokens), "assumption"
        same = [one for one in self._measured if (one.method, one.tokens) == (method, tokens)]
        exact = [one for one in same if one.benchmark == spec.benchmark]
        if exact:
            return sum(one.clock for one in exact) / sum(one.questions for one in exact), "measured"
        # the nearest relatives: other benchmarks of the same, other budgets of the same method, anything
        near = same or [one for one in self._measured if one.method == method] or self._measured
        alike = [one for one in self._measured if one.benchmark == spec.benchmark] or self._measured
        tmacs = self._tmacs(tokens, fmean(one.text_tokens for one in alike))
        prefill = tmacs * sum(one.prefill for one in near) / sum(one.tmacs for one in near)
        vision, decode = fmean(one.vision for one in near), fmean(one.decode for one in alike)
        spent = sum(one.questions * (one.vision + one.prefill + one.decode) for one in near)
        return (vision + prefill + decode) * sum(one.clock for one in near) / spent, "scaled"

    def _assumed(self, benchmark: str, tokens: int) -> float:
        new = SIZES[benchmark].new_tokens if benchmark in SIZES else ASSUMED_NEW_TOKENS
        prefill = self._tmacs(tokens, ASSUMED_TEXT_TOKENS) / self.throughput.tmacs
        return prefill + new * self.throughput.token_s + self.throughput.other_s

    def _tmacs(self, tokens: float, text_tokens: float) -> float:
        """1e12 multiply-adds of a prefill that keeps ``tokens`` on average over the layers."""
        return prefill_flops(self._geometry, [tokens] * self._geometry.layers, text_tokens) / TERA

    def _disk(self, spec: CellSpec, questions: int) -> float:
        stored = [one for one in self._stored if one.benchmark == spec.benchmark] or self._stored
        if not stored:
            return ASSUMED_CELL_BYTES + questions * ASSUMED_ANSWER_BYTES
        per_question = sum(one.answer_bytes for one in stored) / sum(one.questions for one in stored)
        return fmean(one.cell_bytes for one in stored) + questions * per_question


def estimates(estimator: Estimator, specs: Iterable[CellSpec]) -> dict[str, Estimate]:
    """Estimates by signature."""
    return {spec.signature: estimator.of(spec) for spec in specs}


def clock(cell: Mapping[str, Any]) -> float | None:
    """Seconds from start to finish of a stored cell; None where it went on from what an earlier process had done."""
    made = cell["provenance"]
    if any(event["event"] == RESUMED for event in made.get("events", ())):
        return None
    passed = datetime.fromisoformat(made["finished"]) - datetime.fromisoformat(made["started"])
    return max(1.0, passed.total_seconds())  # both are kept to the second


def _all_stored(results: Path) -> Iterable[_Stored]:
    """Every cell that can be read; runs, not plans, say what is wrong with the others."""
    store = CellStore(results)
    for signature in store.signatures():
        try:
            cell = read(Cell, store.path(signature))
            sizes = store.path(signature).stat().st_size, store.answers_path(signature).stat().st_size
            one = _stored(cell, *sizes)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if one.questions and one.tmacs:
            yield one


def _stored(cell: Mapping[str, Any], cell_bytes: int, answer_bytes: int) -> _Stored:
    costs, seconds, made = cell["costs"], cell["costs"]["seconds"], cell["provenance"]
    return _Stored(
        backbone=cell["backbone"],
        method=cell["method"],
        tokens=int(cell["budget"]["tokens"]),
        benchmark=cell["benchmark"],
        device=costs["device"],
        finished=made["finished"],
        questions=int(cell["questions"]),
        available=int(cell["available"]),
        text_tokens=float(costs["text_tokens"]),
        tmacs=float(costs["tflops"]["gated"]),
        vision=float(seconds["vision"]),
        prefill=float(seconds["prefill"]),
        decode=float(seconds["decode"]),
        clock=clock(cell) or 0.0,
        cell_bytes=cell_bytes,
        answer_bytes=answer_bytes,
    )


def _is_cpu(device: str) -> bool:
    """A CPU's name in results ends with its number of threads."""
    return device.endswith(" threads)")
