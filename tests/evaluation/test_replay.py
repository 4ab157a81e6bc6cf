"""What ViT layers returned before is returned again bit for bit, where nothing that enters them has changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clasp.backbones import adapter_for
from clasp.evaluation.answering import Answerer, Question
from clasp.evaluation.replay import Replay
from clasp.methods import build

Tiny = tuple[Any, Any]


def answers(tiny: Tiny, questions: list[Question], name: str, replay: Replay | None) -> list[Any]:
    model, processor = tiny
    return Answerer(model, processor, build(name, {} if name == "none" else {"tokens": 64}), 4, replay).answer(
        questions
    )


def counted(model: Any) -> tuple[list[int], list[Any]]:
    """How often each ViT layer's attention has computed, and the handles to stop counting."""
    layers = adapter_for(model).vision_layers("image")
    calls = [0] * len(layers)

    def count(index: int) -> Any:
        def hook(*_: object) -> None:
            calls[index] += 1

        return hook

    return calls, [layer.self_attn.register_forward_pre_hook(count(i)) for i, layer in enumerate(layers)]


@pytest.mark.parametrize("name", ["none", "random", "visionzip", "clasp", "tome", "mustdrop"])
def test_answers_and_what_is_kept_are_the_same(tiny: Tiny, questions: list[Question], name: str) -> None:
    model, questions = tiny[0], questions[::2]  # one of every benchmark
    plain = answers(tiny, questions, name, None)
    with Replay(model, 1024) as replay:
        answers(tiny, questions, "vispruner", replay)  # fills the memory
        again = answers(tiny, questions, name, replay)
    for one, other in zip(plain, again, strict=True):
        assert (one.text, one.entering, one.leaving) == (other.text, other.entering, other.leaving)
    assert replay.saved_seconds > 0


def test_features_are_bit_equal_and_nothing_is_computed_twice(tiny: Tiny) -> None:
    model = tiny[0]
    size = model.config.vision_config.image_size
    one, other = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 3, size, size)
    calls, handles = counted(model)
    try:
        with torch.inference_mode():
            plain = [model.get_image_features(pixels).pooler_output for pixels in (one, other)]
            once = list(calls)
            with Replay(model, 1024) as replay:
                for _ in range(3):
                    again = [model.get_image_features(pixels).pooler_output for pixels in (one, other)]
    finally:
        for handle in handles:
            handle.remove()
    assert once == [2] * len(calls)
    assert calls == [4] * len(calls), "computed once without the memory and once with it"
    for before, after in zip(plain, again, strict=True):
        for left, right in zip(before, after, strict=True):
            assert torch.equal(left, right)
    assert replay.saved_seconds > 0


def test_a_changed_state_is_computed_from_there_on(tiny: Tiny) -> None:
    """What a hook changes between layers reaches the layers behind it, and does not enter the memory."""
    model = tiny[0]
    size = model.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    layers = adapter_for(model).vision_layers("image")

    def features() -> torch.Tensor:
        return model.get_image_features(pixels).pooler_output[0]

    def double(module: Any, args: Any, output: Any) -> Any:
        return (2 * output[0], *output[1:]) if isinstance(output, tuple) else 2 * output

    with torch.inference_mode():
        plain = features()
        handle = layers[2].register_forward_hook(double)
        changed = features()
        handle.remove()
        with Replay(model, 1024):
            assert torch.equal(features(), plain)
            handle = layers[2].register_forward_hook(double)
            assert torch.equal(features(), changed)
            handle.remove()
            assert torch.equal(features(), plain)
    assert not torch.equal(plain, changed)


def test_memory_is_bounded_and_the_model_is_as_before(tiny: Tiny) -> None:
    model = tiny[0]
    size = model.config.vision_config.image_size
    calls, handles = counted(model)
    try:
        with torch.inference_mode(), Replay(model, 3) as replay:  # 1.9 MiB a picture: one fits, two do not
            for value in (0.0, 1.0, 0.0, 0.0):
                model.get_image_features(torch.full((1, 3, size, size), value))
        assert calls[0] == 3, "the first picture went when the second came, and was there again the fourth time"
        assert replay._bytes <= 3 * 2**20
    finally:
        for handle in handles:
            handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())


def test_times_are_those_without_the_memory(tiny: Tiny, questions: list[Question]) -> None:
    """Seconds that were saved are counted: a cell's costs do not depend on what ran before it."""
    with Replay(tiny[0], 1024) as replay:
        first = sum(answer.seconds.vision for answer in answers(tiny, questions, "random", replay))
        saved = replay.saved_seconds
        second = sum(answer.seconds.vision for answer in answers(tiny, questions, "random", replay))
    assert replay.saved_seconds > saved
    assert 0.5 * first < second < 2.0 * first
