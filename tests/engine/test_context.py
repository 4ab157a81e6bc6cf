"""The context manager: nothing left behind, and what cannot work is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import METHODS, PROMPTS, snapshot
from families import FAMILIES, ONEVISION_SIDE, Prompt
from PIL import Image
from torch import nn
from transformers import StaticCache

from clasp.backbones.base import UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.methods import get


@pytest.fixture(autouse=True)
def warm(model: Any, encode: Any) -> None:
    """transformers installs its hooks at a model's first forward with images; the engine must not remove those."""
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
        with pytest.raises(UnsupportedError, match="2D padding mask"):
            model(**dict(inputs, attention_mask=torch.zeros(1, 1, 4, 4)))
        with pytest.raises(UnsupportedError, match="differs from the model's configuration"):
            model(**inputs, vision_feature_layer=1)
    with pytest.raises(UnsupportedError, match="compiled"):
        METHODS["random"](torch.compile(model), processor)


def test_pictures_that_are_not_those_of_the_prompts_are_refused(model: Any, processor: Any, encode: Any) -> None:
    one, two = encode((PROMPTS[0], (0,))), encode((PROMPTS[0], (0, 1)))
    rows, text = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,))), encode((PROMPTS[0], ()))
    uneven = encode((PROMPTS[0], (0, 1)), (PROMPTS[1], ()))
    picture, pictures = one["pixel_values"], two["pixel_values"]
    remedy = "build inputs with the backbone's processor"
    with METHODS["random"](model, processor) as run, torch.no_grad():
        for call in (model, lambda **inputs: model.generate(**inputs, max_new_tokens=2)):
            with pytest.raises(UnsupportedError, match=rf"64 image placeholders.* 2 encoded images have 128.*{remedy}"):
                call(**dict(one, pixel_values=pictures))
            with pytest.raises(UnsupportedError, match=rf"do not match the prompts' placeholders.*{remedy}"):
                call(**dict(two, pixel_values=picture))
            with pytest.raises(UnsupportedError, match=rf"prompt 0 has 128 image placeholders.*{remedy}"):
                call(**dict(uneven, pixel_values=picture))
            # one picture for two prompts looks like beams, and none like text: transformers itself refuses these
            with pytest.raises(ValueError, match="tokens do not match, tokens: 128"):
                call(**dict(rows, pixel_values=picture))
            with pytest.raises(ValueError, match="tokens do not match, tokens: 0"):
                call(**dict(text, pixel_values=picture))
        assert run.trace is None, "nothing was pruned"


def test_a_model_compiled_in_place_is_refused(model: Any, processor: Any) -> None:
    model.compile()
    try:
        with pytest.raises(UnsupportedError, match=r"compiled model cannot be pruned.*pass the model itself"):
            METHODS["random"](model, processor)
    finally:
        model._compiled_call_impl = None


def test_a_fixed_cache_of_ones_own_is_refused_by_its_name(model: Any, processor: Any, encode: Any) -> None:
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
    with (
        METHODS["random"](model, processor),
        torch.no_grad(),
        pytest.raises(UnsupportedError, match=r"StaticCache has a fixed length.*cache_implementation='dynamic'"),
    ):
        model(**encode((PROMPTS[0], (0,))), past_key_values=cache)


def test_merging_where_features_are_interpolated_is_refused() -> None:
    """OneVision shrinks pictures of more than nine tiles: which token shows a merged patch is undefined then."""
    family = FAMILIES["llava_onevision"]
    inputs = family.inputs([Prompt(text=PROMPTS[0], images=[Image.new("RGB", (4 * ONEVISION_SIDE,) * 2)])])
    with (
        METHODS["tome"](family.model(), family.processor()),
        torch.no_grad(),
        pytest.raises(UnsupportedError, match=r"interpolates between patches.*use another method"),
    ):
        family.model()(**inputs)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_vl"])
def test_a_clip_text_tower_without_a_clip_vision_tower_is_refused(name: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(ValueError, match=r"text_tower='a/clip' needs a backbone with CLIP's.*leave text_tower out"):
        get("cdpruner")(ratio=0.6, text_tower="a/clip")(family.model(), family.processor())


def test_oracle_categories_reach_the_policy(model: Any, processor: Any, encode: Any) -> None:
    from clasp.methods.clasp.method import CLASP

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


def test_only_methods_that_route_read_the_instructions(
    model: Any, processor: Any, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, read = PromptReader.text, []
    monkeypatch.setattr(PromptReader, "text", lambda self, ids: read.append(ids) or text(self, ids))
    inputs = encode((PROMPTS[0], (0,)))
    for name, expected in (("visionzip", 0), ("fastv", 0), ("clasp", 1)):
        with METHODS[name](model, processor), torch.no_grad():
            model(**inputs)
        assert len(read) == expected, name
