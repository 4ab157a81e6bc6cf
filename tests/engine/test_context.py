"""The context manager: nothing left behind, and what cannot work is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import LLAVA, METHODS, PROMPTS, llava_inputs, snapshot
from families import FAMILIES, ONEVISION_SIDE, Prompt
from PIL import Image
from torch import nn
from transformers import StaticCache

from clasp.backbones.base import UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.methods import get
from clasp.methods.clasp.method import CLASP


@pytest.fixture(autouse=True)
def inputs(model: Any) -> Any:
    """Of one prompt; transformers installs its hooks at a model's first forward with images, and the engine must not
    remove those."""
    made = llava_inputs((PROMPTS[0], (0,)))
    with torch.no_grad():
        model(**made)
    return made


def pruning(model: Any, name: str = "random") -> Any:
    return METHODS[name](model, LLAVA.processor())


def test_a_failed_forward_leaves_nothing_behind(model: Any, inputs: Any) -> None:
    """Neither for the next forward nor after the context, also where the exception leaves the context."""

    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("planted")

    before, last = snapshot(model), model.model.language_model.layers[-1]
    small = dict(inputs, pixel_values=inputs["pixel_values"][:, :, :8, :8])
    with pruning(model, "clasp") as run, torch.no_grad():
        expected = model(**inputs).logits
        with pytest.raises(ValueError, match="Input image size"):
            model(**small)
        assert torch.equal(model(**inputs).logits, expected)
        with last.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="planted"):
            model(**inputs)
        assert torch.equal(model(**inputs).logits, expected)
        assert snapshot(model) != before, "the snapshot must see the hooks"
    assert run.trace is not None
    with last.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="planted"), pruning(model, "clasp"):
        model(**inputs)
    assert snapshot(model) == before


def test_entering_twice_is_refused(model: Any) -> None:
    with pruning(model), pytest.raises(UnsupportedError, match="already being pruned"), pruning(model, "clasp"):
        pass


def test_refusals_name_the_remedy(model: Any, inputs: Any) -> None:
    ids = inputs["input_ids"]
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"], return_dict=True)
    fixed = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
    with pruning(model), torch.no_grad():
        for arguments, words in (
            ({"inputs_embeds": torch.zeros(1, 4, 128)}, "input_ids"),
            ({"input_ids": ids}, "no pixel_values"),
            ({"input_ids": ids, "mm_encoder_outputs": {"image": features}}, "outside of this context"),
            (inputs | {"attention_mask": torch.zeros(1, 1, 4, 4)}, "2D padding mask"),
            (inputs | {"vision_feature_layer": 1}, "differs from the model's configuration"),
            (inputs | {"past_key_values": fixed}, "StaticCache has a fixed length.*cache_implementation='dynamic'"),
        ):
            with pytest.raises(UnsupportedError, match=words):
                model(**arguments)
        with pytest.raises(UnsupportedError, match="cache_implementation='dynamic'"):
            model.generate(**inputs, max_new_tokens=2, cache_implementation="static")


def test_compiled_models_are_refused(model: Any) -> None:
    with pytest.raises(UnsupportedError, match="compiled"):
        pruning(torch.compile(model))
    model.compile()
    try:
        with pytest.raises(UnsupportedError, match=r"compiled model cannot be pruned.*pass the model itself"):
            pruning(model)
    finally:
        model._compiled_call_impl = None


def test_pictures_that_are_not_those_of_the_prompts_are_refused(model: Any, inputs: Any) -> None:
    two = llava_inputs((PROMPTS[0], (0, 1)))
    rows, text = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[1], (1,))), llava_inputs((PROMPTS[0], ()))
    uneven = llava_inputs((PROMPTS[0], (0, 1)), (PROMPTS[1], ()))
    picture, pictures = inputs["pixel_values"], two["pixel_values"]
    remedy = ".*build inputs with the backbone's processor"
    with pruning(model) as run, torch.no_grad():
        for prompts, pixels, kind, words in (
            (inputs, pictures, UnsupportedError, "64 image placeholders.* 2 encoded images have 128" + remedy),
            (two, picture, UnsupportedError, "do not match the prompts' placeholders" + remedy),
            (uneven, picture, UnsupportedError, "prompt 0 has 128 image placeholders" + remedy),
            # one picture for two prompts looks like beams, and none like text: transformers itself refuses these
            (rows, picture, ValueError, "tokens do not match, tokens: 128"),
            (text, picture, ValueError, "tokens do not match, tokens: 0"),
        ):
            wrong = prompts | {"pixel_values": pixels}
            with pytest.raises(kind, match=words):
                model(**wrong)
            with pytest.raises(kind, match=words):
                model.generate(**wrong, max_new_tokens=2)
        assert run.trace is None, "nothing was pruned"


def test_merging_where_features_are_interpolated_is_refused() -> None:
    """OneVision shrinks pictures of more than nine tiles: which token shows a merged patch is undefined then."""
    family = FAMILIES["llava_onevision"]
    large = family.inputs([Prompt(text=PROMPTS[0], images=[Image.new("RGB", (4 * ONEVISION_SIDE,) * 2)])])
    with (
        family.pruned_by(METHODS["tome"]),
        torch.no_grad(),
        pytest.raises(UnsupportedError, match=r"interpolates between patches.*use another method"),
    ):
        family.model()(**large)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_vl"])
def test_a_clip_text_tower_without_a_clip_vision_tower_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"text_tower='a/clip' needs a backbone with CLIP's.*leave text_tower out"):
        FAMILIES[name].pruned_by(get("cdpruner")(ratio=0.6, text_tower="a/clip"))


def test_oracle_categories_reach_the_policy(model: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with CLASP(tokens=20, router="oracle")(model, LLAVA.processor()) as run, torch.no_grad():
        run.oracle = ["ocr", "scene"]
        model(**inputs)
        assert [s.category for s in run.trace.samples] == ["ocr", "scene"]
        for categories, words in (
            (None, "set it before each prefill"),
            (["ocr"], "1 categories for 2 prompts"),
            (["ocr", "weather"], "unknown category 'weather'"),
        ):
            assert run.oracle is None, "it is used once"
            run.oracle = categories
            with pytest.raises(ValueError, match=words):
                model(**inputs)


def test_only_methods_that_route_read_the_instructions(
    model: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, read = PromptReader.text, []
    monkeypatch.setattr(PromptReader, "text", lambda self, ids: read.append(ids) or text(self, ids))
    for name, expected in (("visionzip", 0), ("fastv", 0), ("clasp", 1)):
        with pruning(model, name), torch.no_grad():
            model(**inputs)
        assert len(read) == expected, name
