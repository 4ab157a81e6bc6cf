"""The context manager: nothing left behind, and what cannot work is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import METHODS, PROMPTS, snapshot
from torch import nn

from clasp.backbones.base import UnsupportedError


@pytest.fixture(autouse=True)
def warm(model: Any, encode: Any) -> None:
    """transformers installs hooks of its own at a model's first forward with images; they are not ours to remove."""
    with torch.no_grad():
        model(**encode((PROMPTS[0], (0,))))


def test_nothing_is_left_after_an_exception_inside_the_forward(model: Any, processor: Any, encode: Any) -> None:
    before = snapshot(model)
    inputs = encode((PROMPTS[0], (0,)))

    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("planted")

    handle = model.model.language_model.layers[-1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planted"), METHODS["clasp"](model, processor), torch.no_grad():
        model(**inputs)
    handle.remove()
    assert snapshot(model) == before
    with METHODS["clasp"](model, processor) as run, torch.no_grad():
        model(**inputs)
        assert snapshot(model) != before, "the snapshot must see the hooks"
    assert run.trace is not None
    assert snapshot(model) == before


def test_a_failed_forward_does_not_leak_into_the_next_one(model: Any, processor: Any, encode: Any) -> None:
    good = encode((PROMPTS[0], (0,)))
    bad = dict(good, pixel_values=good["pixel_values"][:, :, :8, :8])
    with METHODS["clasp"](model, processor), torch.no_grad():
        expected = model(**good).logits
        with pytest.raises(ValueError, match="Input image size"):
            model(**bad)
        assert torch.equal(model(**good).logits, expected)


def test_entering_twice_is_refused(model: Any, processor: Any) -> None:
    with (
        METHODS["random"](model, processor),
        pytest.raises(UnsupportedError, match="already being pruned"),
        METHODS["clasp"](model, processor),
    ):
        pass


def test_refusals_name_the_remedy(model: Any, processor: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)))
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
    with METHODS["random"](model, processor), torch.no_grad():
        with pytest.raises(UnsupportedError, match="cache_implementation='dynamic'"):
            model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        with pytest.raises(UnsupportedError, match="input_ids"):
            model(inputs_embeds=torch.zeros(1, 4, 128))
        with pytest.raises(UnsupportedError, match="no pixel_values"):
            model(input_ids=inputs["input_ids"])
        with pytest.raises(UnsupportedError, match="outside of this context"):
            model(input_ids=inputs["input_ids"], mm_encoder_outputs={"image": features})
        with pytest.raises(UnsupportedError, match="63 image placeholders, but the 1 encoded images have 64"):
            model(input_ids=inputs["input_ids"][:, 5:], pixel_values=inputs["pixel_values"])
        with pytest.raises(UnsupportedError, match="2D padding mask"):
            model(**dict(inputs, attention_mask=torch.zeros(1, 1, 4, 4)))
        with pytest.raises(UnsupportedError, match="differs from the model's configuration"):
            model(**inputs, vision_feature_layer=1)
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(UnsupportedError, match="not supported; decode token by token"):
            model(input_ids=inputs["input_ids"][:, -2:], past_key_values=cache)
        options = {"prompt_lookup_num_tokens": 2, "suppress_tokens": [model.config.image_token_id]}
        with pytest.raises(UnsupportedError, match="assisted decoding"):
            model.generate(**inputs, max_new_tokens=8, **options)
    with pytest.raises(UnsupportedError, match="compiled"):
        METHODS["random"](torch.compile(model), processor)
    with pytest.raises(UnsupportedError, match=r"no adapter for Linear; known: LlavaForConditionalGeneration"):
        METHODS["random"](nn.Linear(2, 2), processor)


def test_an_empty_prompt_is_refused_by_the_router(model: Any, processor: Any, encode: Any) -> None:
    with METHODS["clasp"](model, processor), pytest.raises(ValueError, match="prompt is empty"):
        model(**encode(("", (0,))))


def test_oracle_categories_reach_the_policy(model: Any, processor: Any, encode: Any) -> None:
    from clasp.methods.clasp import CLASP

    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[0], (1,)))
    with CLASP(tokens=20, router="oracle")(model, processor) as run, torch.no_grad():
        run.oracle = ["ocr", "scene"]
        model(**inputs)
        assert [s.category for s in run.trace.samples] == ["ocr", "scene"]
        with pytest.raises(ValueError, match="set it before each prefill"):
            model(**inputs)
        run.oracle = ["ocr"]
        with pytest.raises(UnsupportedError, match="1 categories for 2 prompts"):
            model(**inputs)
        run.oracle = ["ocr", "weather"]
        with pytest.raises(ValueError, match="unknown category 'weather'"):
            model(**inputs)
