"""Every method on a small random model of every family: the device against the CPU, flash attention against sdpa.

The models, processors and prompts are those of the engine's tests (``tests/engine``), so every tested family is also
checked here.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from clasp.backbones import adapter_for
from clasp.methods import METHODS, build
from clasp.methods.base import Method
from clasp.strict import ConfigError

TESTS = Path(__file__).resolve().parents[2] / "tests" / "engine"
RATIO = 0.6
"""Share of visual tokens to remove."""
NEAR = 0.9
"""Minimum cosine of the last logits for flash attention to count as close to sdpa: in bfloat16 the order of close
scores may change, and each of these few tokens affects the result."""
PACKAGE = "flash_attention_2"
KERNEL = "sdpa's flash kernel"


@dataclass(frozen=True)
class Outcome:
    """Tokens kept in a forward pass, by sample and stage, and last-position logits, (batch, vocabulary) float32."""

    kept: list[list[list[int]]]
    logits: Tensor


def run(
    families: tuple[str, ...],
    methods: tuple[str, ...],
    device: torch.device,
    until: float,
    say: Callable[[str], object],
) -> dict[str, Any]:
    """The matrix as JSON values.

    Args:
        families, methods: names; empty: all.
        until: time limit on the clock of ``time.monotonic``; rows that would start later are skipped and counted.
        say: called with the name of each family or method that starts.

    Raises:
        ConfigError: an unknown family.
    """
    known = _families()
    if unknown := [name for name in families if name not in known]:
        raise ConfigError(f"unknown family {unknown[0]!r}; use one of {', '.join(known)}")
    rows, not_run = list[dict[str, Any]](), 0
    with _exact_products():
        for family in families or tuple(known):
            say(family)
            subject = Subject(known[family], device)
            for name in methods or [name for name in METHODS if name != "none"]:
                if time.monotonic() > until:
                    not_run += 1
                else:
                    rows.append({"family": family, "method": name, **_row(subject, name)})
    return {"ratio": RATIO, "near": NEAR, "rows": rows, "not_run": not_run, "package": _package(device) is None}


def _families() -> dict[str, Any]:
    """The test families by name."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    from families import FAMILIES

    return FAMILIES


@contextmanager
def _exact_products() -> Iterator[None]:
    """Disables TF32: cuDNN's convolutions, for example a ViT's patch embedding, otherwise round to it."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


class Subject:
    """A family's small models on the CPU and on the device.

    Args:
        family: an entry of ``tests/engine/families.py``.
    """

    def __init__(self, family: Any, device: torch.device) -> None:
        from test_matrix import Subject as Prompts

        self.family, self.device = family, device
        self.plain = family.model("sdpa")
        self.moved = copy.deepcopy(self.plain).to(device)
        self.half = copy.deepcopy(family.model("sdpa", torch.bfloat16)).to(device)
        self._prompts = partial(Prompts, family, self.plain)

    def batch(self, inside: bool) -> Any:
        """Prompts with one, several or no images, and a video if supported; ``inside``: for merging in the ViT."""
        return self._prompts(inside).batch

    def single(self) -> Any:
        """One prompt with one image, without padding, because the flash kernel takes no mask."""
        return self._prompts(False).singles[0]

    def forward(self, model: Any, method: Method, inputs: Any) -> Outcome:
        """Runs one prefill."""
        inputs = copy.deepcopy(inputs).to(model.device, model.dtype)
        with method(model, self.family.processor()) as run, torch.no_grad():
            logits = model(**inputs).logits[:, -1].float().cpu()
        assert run.trace is not None
        return Outcome([[kept.tolist() for kept in sample.kept] for sample in run.trace.samples], logits)


def _row(subject: Subject, name: str) -> dict[str, Any]:
    """Results of one method on one family; ``refused`` is why it is unsupported, ``error`` the exception."""
    geometry = adapter_for(subject.plain).geometry
    try:
        method = build(name, {"ratio": RATIO, **({"router": "keyword"} if name == "clasp" else {})})
        method.check(geometry)
    except ValueError as reason:
        return {"refused": str(reason)}
    inside = bool(method.merge_layers(geometry.feature_layer))
    try:
        batch = subject.batch(inside)
        here, there = (subject.forward(model, method, batch) for model in (subject.plain, subject.moved))
        row: dict[str, Any] = {
            "differing": _differing(here.kept, there.kept),
            "kept": sum(len(kept) for sample in here.kept for kept in sample),
            "logits": float((here.logits - there.logits).abs().max()),
        }
        return row | {"flash": _flash(subject, method, inside)}
    except Exception as error:  # record the failure and check the other methods
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _differing(one: list[list[list[int]]], other: list[list[list[int]]]) -> int:
    """Number of tokens kept by only one of the two, over all samples and stages."""
    stages = [
        (ours, theirs)
        for sample, same in zip(one, other, strict=True)
        for ours, theirs in zip(sample, same, strict=True)
    ]
    return sum(len(set(ours) ^ set(theirs)) for ours, theirs in stages)


def _flash(subject: Subject, method: Method, inside: bool) -> dict[str, Any]:
    """For each flash attention implementation: cosine of its last logits with sdpa's in bfloat16, and whether the
    numbers of kept tokens agree; or the reason why it was not run."""
    if inside:
        reason = "sizes of merged patches need an attention bias in the ViT, which flash attention has not"
        return {KERNEL: {"left_out": reason}, PACKAGE: {"left_out": reason}}
    found: dict[str, Any] = {KERNEL: _near(subject, method, subject.single(), "sdpa", sdpa_kernel(FLASH))}
    lacking = _package(subject.device)
    if lacking is None:
        found[PACKAGE] = _near(subject, method, subject.batch(inside), PACKAGE, nullcontext())
    else:
        found[PACKAGE] = {"left_out": lacking}
    return found


FLASH = [SDPBackend.FLASH_ATTENTION]


def _near(
    subject: Subject, method: Method, inputs: Any, attention: str, kernel: AbstractContextManager[Any]
) -> dict[str, Any]:
    usual = subject.forward(subject.half, method, inputs)
    subject.half.set_attn_implementation(attention)
    try:
        with kernel:
            flash = subject.forward(subject.half, method, inputs)
    finally:
        subject.half.set_attn_implementation("sdpa")
    cosine = torch.nn.functional.cosine_similarity(usual.logits, flash.logits).min()
    return {"cosine": float(cosine), "same_counts": _counts(usual.kept) == _counts(flash.kept)}


def _counts(kept: list[list[list[int]]]) -> list[list[int]]:
    return [[len(stage) for stage in sample] for sample in kept]


def _package(device: torch.device) -> str | None:
    """The reason why the package flash-attn cannot be used, or None."""
    if device.type != "cuda":
        return "the package flash-attn runs on a GPU alone"
    return None if find_spec("flash_attn") is not None else "the package flash-attn is not installed"
