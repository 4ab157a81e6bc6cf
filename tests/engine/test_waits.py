"""A stage reads from the device once, to learn what is where; all else is queued without waiting for results.

There is no device here: what would live on it is marked, and so is all that is computed from it; reading a marked value
on the host is a wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import PROMPTS
from families import FAMILIES, Prompt, fits
from test_matrix import _picture
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from clasp.engine.layout import Layout
from clasp.engine.prefill import Prefill
from clasp.methods import METHODS, get

COUNTED = {"tome": ["tolist"], "mustdrop": ["tolist"], "flowcut": ["tolist"], "prunesid": ["_local_scalar_dense"]}
"""Methods inside the vision tower: how many tokens of each row stay is what their first stage computes. PruneSID: its
groups are found on the CPU, and the largest says how long suppression takes."""
ALLOCATED = {
    ("hired", "llava_next"): ["tolist", "tolist"],
    ("hired", "llava_onevision"): ["tolist", "tolist"],
    ("prunesid", "llava_next"): ["_local_scalar_dense"],
    ("prunesid", "llava_onevision"): ["_local_scalar_dense"],
}
"""HiRED splits a picture's budget over its tiles by what CLS attends to: one read a picture. PruneSID reads once for
all crops of one size, and here the tiles' is not the whole picture's."""
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item"}
BATCH = [Prompt(text=PROMPTS[0], images=[_picture(64, 64, 0)]), Prompt(text=PROMPTS[0], images=[_picture(64, 64, 1)])]


class Device(TorchDispatchMode):
    """Marks what is computed from marked values, and notes every operation that reads one of them on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.waits: list[str] = []

    def mark(self, *values: Tensor) -> None:
        for value in values:
            self.marked[value] = True

    def has(self, value: object) -> bool:
        return isinstance(value, Tensor) and value in self.marked

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if self.has(leaf)]
        by_mask = name.startswith("index") and any(
            leaf.dtype == torch.bool for leaf in _indices(args) if self.has(leaf)
        )
        if given and (name in READS or by_mask):
            self.waits.append(name)
        if given:
            self.mark(*(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)))
            if function._schema.is_mutable:
                self.mark(args[0])
        return result


def _indices(args: Any) -> list[Tensor]:
    """What the first argument is indexed by."""
    return [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor)]


def _some(value: Tensor | None) -> list[Tensor]:
    return [] if value is None else [value]


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, *inputs: Tensor) -> Iterator[list[tuple[int, list[str]]]]:
    """Of each stage: how often it asked for its layout on the CPU, and its other waits. ``inputs``: the processor's."""
    stages: list[tuple[int, list[str]]] = []
    prune, tolist = Prefill.prune, Tensor.tolist
    device = Device()
    device.mark(*inputs)
    asked: list[Layout] = []

    def host(layout: Layout) -> tuple[Tensor, Tensor]:
        if layout.known is not None:
            return layout.known
        asked.append(layout)
        with _disable_current_modes():
            return layout.index.clone(), layout.valid.clone()

    def read(value: Tensor) -> Any:
        if device.has(value):
            device.waits.append("tolist")
        return tolist(value)

    def stage(self: Prefill, number: int, stage: Any, hidden: Tensor, cache: Any) -> Tensor:
        latest = self.layouts[-1]  # apart from the host's
        layout = self.layouts[-1] = replace(latest, index=latest.index.clone(), valid=latest.valid.clone())
        asked.clear()
        device.waits = []
        device.mark(hidden, layout.index, layout.valid, layout.positions, *layout.rotary)
        if self.embedded is not None:
            device.mark(self.embedded)
        for seen in self.passes:
            device.mark(*seen.states.values(), seen.output.last_hidden_state, *_some(seen.merged))
        with device:
            kept = prune(self, number, stage, hidden, cache)
        assert device.has(kept), "the marks reached what the stage returns"
        stages.append((len({id(one) for one in asked}), device.waits))
        return kept

    with monkeypatch.context() as patch:
        patch.setattr(Layout, "host", property(host))
        patch.setattr(Tensor, "tolist", read)
        patch.setattr(Prefill, "prune", stage)
        yield stages


def _cases() -> Iterator[Any]:
    """Every method on every family that it runs on."""
    for name in METHODS:
        if name == "none":
            continue
        for family in FAMILIES:
            if fits(get(name)(ratio=0.5), family):
                yield pytest.param(name, family, id=f"{name}-{family}")


@pytest.mark.parametrize(("name", "family"), _cases())
def test_a_stage_waits_at_most_once(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one knows from the prompts what is where; further ones read it, and all else is queued."""
    built = FAMILIES[family]
    model, processor = built.model("sdpa"), built.processor()
    inputs = built.inputs(BATCH)
    # as on a device: which rows are left over is not looked up
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr("clasp.ops.select._partitioned", lambda scores, k: None)  # numpy's, on a CPU alone
    method = get(name)(ratio=0.5, **({"router": "keyword"} if name == "clasp" else {}))
    with watched(monkeypatch, *inputs.values()) as stages, method(model, processor), torch.no_grad():
        model(**inputs)
    assert stages
    first, *others = stages
    assert first == (0, COUNTED.get(name, []) + ALLOCATED.get((name, family), []))
    assert others == [(1, [])] * len(others)


ONCE = {"vidcom2", "fastvid", "holitom", "framefusion"}
"""Methods whose first stage reads once which frames are alike, or, merging them, how many tokens that leaves."""


@pytest.mark.parametrize("family", ["video_llava", "qwen2_5_vl"])
@pytest.mark.parametrize("name", [name for name in METHODS if get(name).needs_videos])
def test_a_stage_on_videos_waits_at_most_once(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = FAMILIES[family]
    videos = [[[_picture(48, 48, 10 * video + frame) for frame in range(8)]] for video in range(2)]
    inputs = built.inputs([Prompt(text=PROMPTS[0], videos=clips) for clips in videos])
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))
    monkeypatch.setattr("clasp.ops.select._partitioned", lambda scores, k: None)
    method = get(name)(ratio=0.5, **({"similarity": -1.0} if name == "framefusion" else {}))
    with (
        watched(monkeypatch, *inputs.values()) as stages,
        method(built.model("sdpa"), built.processor()),
        torch.no_grad(),
    ):
        built.model("sdpa")(**inputs)
    first, *others = [reads for _, reads in stages]
    assert first == (["tolist"] if name in ONCE else [])
    assert others == [[]] * len(others)


def test_reading_what_a_stage_computes_is_a_wait() -> None:
    device, hidden = Device(), torch.ones(2, 3)
    device.mark(hidden)
    plain = torch.zeros(2, 3)
    with device:
        assert bool((hidden > 0).all())
        assert len(plain[hidden > 0]) == 6
        plain[torch.tensor([0]), torch.tensor([1])] = hidden[0, :1]
        assert float(plain.sum())
        assert torch.ones(2).sum() == 2
    assert device.waits == ["_local_scalar_dense", "index", "_local_scalar_dense"]
