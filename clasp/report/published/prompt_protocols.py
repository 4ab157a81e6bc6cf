"""Rules for whether a published number and one of ours may be compared: the known differences in protocol.

A rule never changes a number: it only decides whether a difference is shown, marked as uncertain, or not shown at all.
Facts on protocols and on the meaning of budgets: results/published/README.md and the methods' papers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, NamedTuple

Comparable = Literal["same", "unsure", "different"]
"""``same``: a difference is shown; ``unsure``: shown with a mark; ``different``: none is shown."""
ORDER: tuple[Comparable, ...] = ("same", "unsure", "different")
AVERAGE = "normalized_average"
"""Published name of the mean over benchmarks of score / unpruned score, in percent."""
FORMS = {f"tiny_{name}": name for name in ("gqa", "vqav2", "pope", "mme", "mmbench", "sqa", "textvqa", "mmvet")}
"""Benchmark of the small world -> the public benchmark whose form it has."""
COUNTERPARTS = {"vqav2_testdev": "vqav2", "textvqa_ocr": "textvqa", **FORMS}
"""Benchmark of ours -> its published name, where the two differ."""
EIGHT: tuple[Collection[str], ...] = (
    *({name} for name in ("gqa", "mmbench", "mme", "pope", "sqa", "mmvet")),
    {"vqav2", "vqav2_testdev"},
    {"textvqa", "textvqa_ocr"},
)
"""The benchmarks of the CLASP page's curves, in any protocol of ours."""


Line = Mapping[str, str]
"""A line of accuracy.csv, by column: of these the rules read ``backbone``, ``protocol`` and ``note``."""


class Finding(NamedTuple):
    """A reason for not comparing, or not with certainty."""

    comparable: Comparable
    reason: str


class Rule(NamedTuple):
    """A known difference between our protocol on some benchmarks (none means all) and that of published numbers."""

    benchmarks: Collection[str]
    comparable: Comparable
    reason: str
    applies: Callable[[Line], bool] = lambda line: True


def _ocr(line: Line) -> bool:
    """LLaVA-1.5's published TextVQA (58.2 unpruned) has the OCR tokens in the prompt unless it says otherwise."""
    return line["backbone"] == "llava_1_5_7b" and not _no_ocr(line)


def _no_ocr(line: Line) -> bool:
    return "without OCR" in line["protocol"]


_TEXTVQA = "TextVQA: published {}, ours {} OCR tokens in the prompt"
RULES = (
    Rule({"textvqa"}, "different", _TEXTVQA.format("with", "without"), _ocr),
    Rule({"textvqa_ocr"}, "different", _TEXTVQA.format("without", "with"), _no_ocr),
    Rule(
        {"textvqa", "textvqa_ocr"},
        "unsure",
        "TextVQA: the source does not say whether OCR tokens are in the prompt",
        lambda line: not _ocr(line) and not _no_ocr(line),
    ),
    Rule({"vqav2"}, "different", "VQAv2: published on test-dev, scored by the server, ours on the validation split"),
    Rule(
        {"pope"},
        "unsure",
        "POPE: ours is F1, as most published rows; this source may mean accuracy",
        lambda line: "F1" not in line["note"] and "F1" not in line["protocol"],
    ),
    Rule(
        {"mme"},
        "different",
        "MME: published perception alone, ours perception + cognition",
        lambda line: line["note"] == "mme_perception",
    ),
    Rule(
        {"mmbench"},
        "unsure",
        "MMBench: ours is lmms-eval's static scoring; the source does not say how it scores",
        lambda line: line["protocol"] != "lmms-eval",
    ),
    Rule(
        {"mmvet", "tgif", "msvd", "msrvtt", "activitynet"},
        "different",
        "scored by a judge model, which is not the same one as ours",
    ),
    Rule(
        (),
        "unsure",
        "some sources force 2,880 visual tokens (ours keep unpadding); this one does not say",
        lambda line: line["backbone"] == "llava_next_7b",
    ),
    Rule(
        (),
        "unsure",
        "the published number was read from an OCR copy, which may misplace cells",
        lambda line: "OCR copy" in line["note"],
    ),
    Rule(
        (),
        "unsure",
        "the source does not say at which sizes images are fed, nor the prompt's wording",
        lambda line: line["backbone"] == "qwen2_5_vl_7b",
    ),
    Rule(
        (),
        "unsure",
        "the published number follows from a stated difference, to 0.1",
        lambda line: "derived" in line["note"],
    ),
)


def findings(benchmark: str, line: Line) -> list[Finding]:
    """The reasons against comparing our number on ``benchmark`` with the published one."""
    concerned = [rule for rule in RULES if benchmark in (rule.benchmarks or {benchmark}) and rule.applies(line)]
    return [Finding(rule.comparable, rule.reason) for rule in concerned]


def average_findings(benchmarks: Collection[str]) -> list[Finding]:
    """The reasons against comparing normalized averages, ours being over ``benchmarks``."""
    if all(any(name in names for name in benchmarks) for names in EIGHT):
        return [Finding("unsure", "average: the source's is over its own protocols, ours over those of this table")]
    return [Finding("different", "average: the source's is over benchmarks that this table lacks")]


def worst(found: Collection[Finding]) -> Comparable:
    return max((finding.comparable for finding in found), key=ORDER.index, default="same")


class Quantity(NamedTuple):
    """A published cost: its heading, and the reason against comparing it."""

    label: str
    finding: Finding | None


_HARDWARE = "time: measured on other hardware or with other software"
_UNSURE_SPEED = Finding("unsure", "speed-up: measured on other hardware and with other software")
_KEPT = Finding("unsure", "accuracy kept: ours is of the benchmark's score (POPE: F1); the source may mean accuracy")
_CACHE = Finding("different", "KV cache: published from a formula or on other prompts, ours measured with the text's")
_FLOPS = Finding("different", "FLOPs: the source's formula is not stated; ours is the decoder's prefill, gated formula")
QUANTITIES = {
    "accuracy_retention_pct": Quantity("accuracy kept %", _KEPT),
    "pope_f1": Quantity("POPE F1", None),
    "time_speedup": Quantity("total speed-up", _UNSURE_SPEED),
    "latency_ms": Quantity("latency ms", Finding("different", _HARDWARE)),
    "prefill_ms": Quantity("prefill ms", Finding("different", _HARDWARE)),
    "total_time_mmss": Quantity("total time m:s", Finding("different", _HARDWARE)),
    "prefill_time_mmss": Quantity("prefill time m:s", Finding("different", _HARDWARE)),
    "tflops": Quantity("TFLOPs", _FLOPS),
    "gflops": Quantity("GFLOPs", _FLOPS),
    "flops_pct": Quantity("FLOPs %", Finding("unsure", "FLOPs share: the source's formula is not stated")),
    "kv_mb": Quantity("KV MB", _CACHE),
    "kv_mb_nominal": Quantity("KV MB (nominal)", _CACHE),
}
"""Costs in efficiency.csv, in the order of the table's columns."""
