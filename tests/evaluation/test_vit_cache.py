"""What ViT layers returned for a crop before is returned again bit for bit, where what enters them has not changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evaluation_support import Loaded, small_model

from clasp.backbones import adapter_for
from clasp.evaluation.generation.answering import Answerer, Question
from clasp.evaluation.generation.vit_cache import ViTCache, vit_cache_of
from clasp.methods import build


def answers(tiny: Loaded, questions: list[Question], name: str, cache: ViTCache | None, batch: int = 4) -> list[Any]:
    method = build(name, {} if name == "none" else {"tokens": 64})
    return Answerer(*tiny, method, batch, cache).answer(questions)


@pytest.fixture
def calls(tiny: Loaded) -> Iterator[list[int]]:
    """How often each ViT layer's attention has computed."""
    layers = adapter_for(tiny[0]).vision_layers("image")
    counts = [0] * len(layers)

    def count(index: int, *_: object) -> None:
        counts[index] += 1

    handles = [layer.self_attn.register_forward_pre_hook(partial(count, i)) for i, layer in enumerate(layers)]
    yield counts
    for handle in handles:
        handle.remove()


def images(model: Any, count: int) -> torch.Tensor:
    """(count, 3, side, side) of noise."""
    size = model.config.vision_config.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def features(model: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(model.get_image_features(pixels).pooler_output)


@pytest.mark.parametrize("name", ["none", "random", "visionzip", "clasp", "tome", "mustdrop"])
def test_answers_and_what_is_kept_are_the_same(tiny: Loaded, questions: list[Question], name: str) -> None:
    model, questions = tiny[0], questions[::2]  # one of every benchmark
    with ViTCache(model, 0) as nothing:
        plain = answers(tiny, questions, name, nothing)
    with ViTCache(model, 1024) as cache:
        answers(tiny, questions[::-1], "vispruner", cache, 3)  # fills the cache, in other batches
        again = answers(tiny, questions, name, cache)
    for one, other in zip(plain, again, strict=True):
        assert (one.text, one.entering, one.leaving) == (other.text, other.entering, other.leaving)
    assert cache.saved_seconds > 0
    assert nothing.saved_seconds == 0


@pytest.mark.parametrize("mebibytes", [0, 5, 1024])
def test_features_are_bit_equal_in_whatever_batch_and_cache(tiny: Loaded, mebibytes: int) -> None:
    model = tiny[0]
    pixels = images(model, 4)
    plain = features(model, pixels)
    with ViTCache(model, 0):
        alone = [features(model, image[None])[0] for image in pixels]
    torch.testing.assert_close(alone, plain, rtol=1e-4, atol=1e-4)
    with ViTCache(model, mebibytes):
        for batch in ([0, 1], [2, 1, 3], [3], [0, 0, 3, 2], [1, 2, 3, 0]):
            for place, found in zip(batch, features(model, pixels[batch]), strict=True):
                assert torch.equal(found, alone[place])


def test_no_image_is_computed_twice(tiny: Loaded, calls: list[int]) -> None:
    """Neither in another batch nor within one; with a cache of size 0 each is, every time."""
    model = tiny[0]
    pixels = images(model, 3)
    with ViTCache(model, 1024) as cache:
        features(model, pixels[[0, 1]])
        assert (set(calls), cache.saved_seconds) == ({2}, 0.0)
        features(model, pixels[[1, 2, 2]])
        assert set(calls) == {3}
        assert cache.saved_seconds > 0, "the same image twice in a batch is saved once, too"
        features(model, pixels)
        assert set(calls) == {3}
    with ViTCache(model, 0) as nothing:
        features(model, pixels[[1, 2, 2]])
        features(model, pixels)
    assert set(calls) == {3 + 6}
    assert (nothing.saved_seconds, nothing._bytes, len(nothing._crops)) == (0.0, 0, 0)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_changed_state_is_computed_from_there_on(tiny: Loaded, calls: list[int], in_place: bool) -> None:
    """What a hook changes between layers reaches the layers behind it, for the images that it changes alone, and
    does not enter the cache."""
    model = tiny[0]
    pixels = images(model, 3)
    layers = adapter_for(model).vision_layers("image")

    def double(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output if in_place else output.clone()
        output[-1] *= 2
        return output

    def changed(pixels: torch.Tensor) -> list[torch.Tensor]:
        with layers[2].register_forward_hook(double):
            return features(model, pixels)

    with ViTCache(model, 0):
        plain, other = features(model, pixels), changed(pixels)
    calls[:] = [0] * len(calls)
    assert [torch.equal(one, two) for one, two in zip(plain, other, strict=True)] == [True, True, False]
    with ViTCache(model, 1024):
        for first in (0, 0, 2):  # the last time, the image that is changed alone
            for expected, got in ((plain, features(model, pixels[first:])), (other, changed(pixels[first:]))):
                assert all(torch.equal(one, two) for one, two in zip(expected[first:], got, strict=True))
        assert torch.equal(features(model, pixels)[2], plain[2])
    assert calls == [3, 3, 3, *[3 + 3] * (len(layers) - 3)], "the one image, behind the hook, each time"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llava_next", "llava_onevision", "video_llava"])
def test_crops_are_cached_but_where_a_tower_packs_its_images(family: str, questions: list[Question]) -> None:
    pair, packs = small_model(family), family.startswith("qwen")
    with nullcontext() if packs else ViTCache(pair[0], 0) as nothing:
        plain = answers(pair, questions[:3], "none", nothing)
    with ViTCache(pair[0], 1024) as cache:
        for batch in (1, 3):
            again = answers(pair, questions[:3], "none", cache, batch)
            assert [a.text for a in again] == [a.text for a in plain]
    assert (cache.saved_seconds > 0, cache._bytes > 0) == (not packs, not packs)


def test_the_cache_is_bounded_and_the_model_is_as_before(tiny: Loaded, calls: list[int]) -> None:
    model = tiny[0]
    pixels = images(model, 3)
    with ViTCache(model, 8) as cache:  # 3.7 MiB an image: two fit
        asked = [[0], [1], [0], [2], [1], [2, 0], [1, 0, 1], [2]]
        for places, computed in zip(asked, (1, 2, 2, 3, 3, 4, 4, 5), strict=True):
            features(model, pixels[places])
            assert set(calls) == {computed}, "what was kept first stays"
            assert 0 < cache._bytes <= 8 * 2**20
        assert cache._bytes == sum(state.numel() * 4 for crop in cache._crops.values() for state in crop.states)
    with ViTCache(model, 1) as cache:
        features(model, pixels)
        assert cache._bytes <= 2**20, "not one image fits"
    assert not any("forward" in vars(module) for module in model.modules())


def test_times_are_those_without_the_cache(tiny: Loaded, questions: list[Question]) -> None:
    """Seconds that were saved are counted: a cell's costs do not depend on what ran before it."""
    with ViTCache(tiny[0], 1024) as cache:
        first = sum(answer.seconds.vision for answer in answers(tiny, questions, "random", cache))
        saved = cache.saved_seconds
        second = sum(answer.seconds.vision for answer in answers(tiny, questions, "random", cache))
    assert cache.saved_seconds > saved
    assert 0.5 * first < second < 2.0 * first


def test_a_cache_that_has_no_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = SimpleNamespace(device=torch.device("cuda"))
    with caplog.at_level("INFO"):
        assert vit_cache_of(model, 0) is None
        assert caplog.messages == []
        assert vit_cache_of(model, 512) is None
    (message,) = caplog.messages
    assert message.startswith("vision_cache_mib=512 has no effect on cuda")
