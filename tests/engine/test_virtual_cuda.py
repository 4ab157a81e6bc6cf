"""Every method on every family on a virtual CUDA device: nothing is left on the CPU, same tokens, few reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from families import FAMILIES, fits
from test_waits import BATCH
from torch import Tensor
from virtual_cuda import CUDA, OnDevice, VirtualCuda, model_on_device, on_device

from clasp.methods import METHODS, get

SIZED = {"bincount", "index", "masked_select", "nonzero", "repeat_interleave", "unique_consecutive", "_unique2"}
"""Reads for the size of a result that lies on the device, where a form of known size would do."""


@lru_cache
def family_on_device(name: str) -> tuple[Any, Any, list[str]]:
    """A family's model and inputs on the device, and the reads of its own forward without a method."""
    family = FAMILIES[name]
    model, inputs = model_on_device(family.model("eager")), on_device(family.inputs(BATCH))
    with torch.no_grad(), VirtualCuda() as device:
        assert model(**inputs).logits.device == CUDA
    return model, inputs, device.reads


def _cases() -> Iterator[Any]:
    for family in FAMILIES:
        for name in METHODS:
            if name != "none" and fits(get(name)(ratio=0.5), family):
                yield pytest.param(
                    name, family, id=f"{family}-{name}", marks=pytest.mark.xdist_group(f"virtual cuda {family}")
                )


@pytest.mark.parametrize(("name", "family"), _cases())
def test_a_method_on_the_device_keeps_the_tokens_of_the_cpu(name: str, family: str) -> None:
    plain, processor = FAMILIES[family].model("eager"), FAMILIES[family].processor()
    model, inputs, own = family_on_device(family)
    method = get(name)(ratio=0.5, **({"router": "keyword"} if name == "clasp" else {}))
    with torch.no_grad(), method(plain, processor) as run:
        expected = plain(**FAMILIES[family].inputs(BATCH)).logits
    reference = run.trace
    with torch.no_grad(), VirtualCuda() as device, method(model, processor) as run:
        logits = model(**inputs).logits
    assert reference is not None
    assert run.trace is not None
    assert any(len(kept) for sample in run.trace.samples for kept in sample.kept)
    for there, here in zip(run.trace.samples, reference.samples, strict=True):
        assert [kept.tolist() for kept in there.kept] == [kept.tolist() for kept in here.kept]
    assert logits.device == CUDA
    torch.testing.assert_close(logits.held, expected, rtol=0, atol=1e-4)

    assert sorted(SIZED.intersection(device.reads)) == sorted(SIZED.intersection(own))
    merges = len(method.merge_layers(plain.config.vision_config.num_hidden_layers))
    # of a forward: is there a picture, the prompts, the trace; of a stage: its layout, its pivots; of a picture: its
    # crops, its grid, its seed. A loop over tokens that reads in each round is far above that.
    assert len(device.reads) - len(own) <= 3 + 2 * len(run.schedule.stages) + 3 * len(BATCH) + 2 * merges, device.reads


HERE, THERE = torch.tensor([0, 1]), OnDevice(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: THERE + HERE,
        lambda: HERE + THERE.sum(),
        lambda: HERE[THERE],
        lambda: THERE.gather(0, HERE),
        lambda: torch.cat([THERE, HERE]),
        lambda: torch.zeros(2, dtype=torch.long).scatter_(0, THERE, 1),
        lambda: THERE.clone().index_put_((THERE,), HERE),
        lambda: torch.nn.functional.embedding(HERE, OnDevice(torch.ones(2, 2))),
        lambda: torch.rand(2, device=THERE.device, generator=torch.Generator()),
    ],
)
def test_two_devices_in_one_operation_are_refused(mixed: Callable[[], Tensor]) -> None:
    with VirtualCuda(), pytest.raises(RuntimeError, match=r"same device|cannot draw"):
        mixed()


def test_what_torch_allows_stays_allowed() -> None:
    with VirtualCuda() as device:
        made = THERE * torch.tensor(2) + torch.tensor([3, 4], device=THERE.device) + torch.arange(2, device="cuda")
        assert made.is_cuda
        made[0] = 7
        view = made[HERE.flip(0)].view(1, 2).contiguous()
        assert view.device == CUDA
        assert not device.reads
    assert made.held.tolist() == [7, 7]
    assert view.held.tolist() == [[7, 7]]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: int(x.sum()),
        lambda x: f"{x.sum()}",
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float32),
        lambda x: torch.zeros(2).copy_(x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: torch.where(x > 0),
        lambda x: x.bincount(),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([x[0]], device=x.device),
    ],
)
def test_a_read_is_counted(read: Callable[[Tensor], Any]) -> None:
    with VirtualCuda() as device:
        read(THERE)
    assert len(device.reads) == 1


def test_nothing_of_the_device_is_left_behind() -> None:
    before = torch.tensor, torch.cuda._lazy_init, torch._C._only_lift_cpu_tensors()
    with VirtualCuda(), VirtualCuda():
        pass
    assert before == (torch.tensor, torch.cuda._lazy_init, torch._C._only_lift_cpu_tensors())
    with pytest.raises(RuntimeError, match="only within VirtualCuda"):
        THERE + 1
