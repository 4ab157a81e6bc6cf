"""Every method on every family on a virtual CUDA device: nothing is left on the CPU, same tokens, few reads.

A stage reads from the device once, to learn what is where; the first one knows that from the prompts. All else is
queued without waiting for results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch
from cases import PROMPTS, REDUCED
from families import FAMILIES, Prompt, film, fits, picture
from torch import Tensor
from virtual_cuda import CUDA, OnDevice, VirtualCuda, model_on_device, on_device

from clasp.engine.prefill import Prefill
from clasp.methods import METHODS, get

SIZED = {"bincount", "index", "masked_select", "nonzero", "repeat_interleave", "unique_consecutive", "_unique2"}
"""Reads for the size of a result that lies on the device, where a form of known size would do."""


FIRST: dict[str, tuple[int, int, int]] = {
    # each picture's seed
    **dict.fromkeys(("random", "random_inside", "sparsevlm", "stride", "fastvid", "holitom"), (2, 2, 2)),
    # each picture's crops
    **dict.fromkeys(("prumerge", "prumerge_plus", "fastervlm", "vispruner", "visionzip", "cdpruner"), (2, 2, 0)),
    **dict.fromkeys(("mmtok", "holov", "scope", "visiontrim"), (2, 2, 0)),
    # and its tiles
    **dict.fromkeys(("pool", "hired", "vscan", "hiprune"), (2, 4, 0)),
    # how many tokens of each row the vision tower has left
    "tome": (3, 3, 3),
    "flowcut": (3, 3, 3),
    "mustdrop": (1, 1, 1),
    # the pairs of its densest tokens
    "pact": (1, 1, 1),
    # its groups are found on the CPU; their largest, for each size of crops, is the number of suppression's rounds
    "prunesid": (5, 6, 3),
}
"""Method -> reads of its first stage for two pictures: of one crop each, of several, where the ViT packs; else none."""
ON_VIDEOS = {"vidcom2": 1, "fastvid": 3, "holitom": 3, "framefusion": 1, "evs": 0}
"""Method -> the same for two videos in a packed ViT: which frames are alike, how many tokens merging leaves. Where
frames are crops, each video's are read too."""
PICTURES = [Prompt(text=PROMPTS[0], images=[picture(64, 64, seed)]) for seed in (0, 1)]
VIDEOS = [Prompt(text=PROMPTS[0], videos=[film(8, 48, 48, 10 * n)]) for n in (0, 1)]


@lru_cache
def on_the_device(family: str, videos: bool) -> tuple[Any, Any, list[str]]:
    """A family's model and inputs on the device, and the reads of a forward without a method."""
    built = FAMILIES[family]
    model, inputs = model_on_device(built.model("eager")), on_device(built.inputs(VIDEOS if videos else PICTURES))
    with torch.no_grad(), VirtualCuda() as device:
        assert model(**inputs).logits.device == CUDA
    return model, inputs, device.reads


def _cases() -> Iterator[Any]:
    for family in FAMILIES:
        group = pytest.mark.xdist_group(f"virtual cuda {family}")
        for name in METHODS:
            if name != "none" and name in REDUCED.get(family, METHODS) and fits(get(name)(ratio=0.5), family):
                yield pytest.param(name, family, False, id=f"{family}-{name}", marks=group)
                if get(name).needs_videos and family in ("video_llava", "qwen2_5_vl"):
                    yield pytest.param(name, family, True, id=f"{family}-{name}-videos", marks=group)


@pytest.mark.parametrize(("name", "family", "videos"), _cases())
def test_a_method_on_the_device_keeps_the_tokens_of_the_cpu(
    name: str, family: str, videos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, processor = FAMILIES[family].model("eager"), FAMILIES[family].processor()
    model, inputs, own = on_the_device(family, videos)
    method = get(name)(ratio=0.5, **({"router": "keyword"} if name == "clasp" else {}))
    with torch.no_grad(), method(plain, processor) as run:
        expected = plain(**FAMILIES[family].inputs(VIDEOS if videos else PICTURES)).logits
    reference, prune, stages = run.trace, Prefill.prune, list[int]()

    def counted(*arguments: Any) -> Tensor:
        before = len(device.reads)
        kept = prune(*arguments)
        stages.append(len(device.reads) - before)
        return kept

    with torch.no_grad(), VirtualCuda() as device, method(model, processor) as run:
        monkeypatch.setattr(Prefill, "prune", counted)
        logits = model(**inputs).logits
    assert any(len(kept) for sample in run.trace.samples for kept in sample.kept)
    for there, here in zip(run.trace.samples, reference.samples, strict=True):
        assert [kept.tolist() for kept in there.kept] == [kept.tolist() for kept in here.kept]
    assert logits.device == CUDA
    torch.testing.assert_close(logits.held, expected, rtol=0, atol=1e-4)

    assert sorted(SIZED.intersection(device.reads)) == sorted(SIZED.intersection(own))
    alone, tiled, packed = FIRST.get(name, (0, 0, 0))
    cut = family in ("llava_next", "llava_onevision")
    first = packed if family.startswith("qwen") else tiled if cut else alone
    if videos:
        first = ON_VIDEOS[name] + (0 if family.startswith("qwen") else len(VIDEOS))
    assert stages == [first, *[1] * (len(stages) - 1)]
    merges = len(method.merge_layers(plain.config.vision_config.num_hidden_layers))
    # of a forward: is there a picture, the prompts, the trace; of a stage: its layout, its pivots; of a picture: its
    # crops, its grid, its seed
    assert len(device.reads) - len(own) <= 3 + 2 * len(stages) + 3 * len(PICTURES) + 2 * merges, device.reads


HERE, THERE = torch.tensor([0, 1]), OnDevice(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: THERE + HERE,
        lambda: HERE + THERE.sum(),
        lambda: HERE[THERE],
        lambda: torch.cat([THERE, HERE]),
        lambda: THERE.clone().index_put_((THERE,), HERE),
        lambda: torch.rand(2, device=THERE.device, generator=torch.Generator()),
    ],
)
def test_two_devices_in_one_operation_are_refused(mixed: Callable[[], Tensor]) -> None:
    with VirtualCuda(), pytest.raises(RuntimeError, match=r"same device|cannot draw"):
        mixed()


def test_mixed_operations_that_torch_allows_are_allowed() -> None:
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
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: f"{x.sum()}",
        lambda x: x.cpu(),
        lambda x: torch.zeros(2).copy_(x),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
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
