"""The engine against independent computations of the same thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import LAYERS, METHODS, PROMPTS, VISUAL, Fixed
from torch import Tensor

from clasp.methods.base import Method
from clasp.methods.clasp import CLASP
from clasp.methods.fastv import FastV
from clasp.methods.none import Unpruned
from clasp.methods.random import Random


def masked_logits(model: Any, inputs: Any, stages: dict[int, list[Tensor]]) -> Tensor:
    """Full-length forward in which, from each stage's layer on, nobody may look at the dropped visual tokens.

    Args:
        stages: layer -> per sample the kept visual tokens, as indices among the sample's visual tokens.
    """
    visual = inputs["input_ids"] == model.config.image_token_id

    def hide(layer: int, keeps: list[Tensor]) -> Callable[..., Any]:
        dropped = visual.clone()
        for row, keep in enumerate(keeps):
            places = visual[row].nonzero().squeeze(1)
            dropped[row, places[keep]] = False

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            mask = kwargs["attention_mask"]
            lowest = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask.masked_fill(dropped[:, None, None, :], lowest)}

        return hook

    handles, current = [], None
    layers = model.model.language_model.layers
    for index in range(LAYERS):
        current = hide(index, stages[index]) if index in stages else current
        if current is not None:
            handles.append(layers[index].register_forward_pre_hook(current, with_kwargs=True))
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()


def pruned(model: Any, processor: Any, method: Method, inputs: Any) -> tuple[Tensor, Any]:
    with method(model, processor) as run, torch.no_grad():
        return model(**inputs).logits, run.trace


STAGES = {
    "one": ((3, (1, 2, 30, 50, 63)),),
    "at layer 0": ((0, (0, 5, 17, 40)),),
    "three": ((1, tuple(range(0, 64, 2))), (3, (0, 3, 5, 20, 31)), (6, (2, 4))),
    "adjacent": ((2, tuple(range(20))), (3, (0, 19))),
    "last layer": ((7, (10, 11)),),
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_dropping_equals_masking_from_that_layer_on(eager: Any, processor: Any, encode: Any, stages: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    logits, trace = pruned(eager, processor, Fixed(stages=stages), inputs)
    absolute = {layer: [s.kept[i] for s in trace.samples] for i, (layer, _) in enumerate(stages)}
    expected = masked_logits(eager, inputs, absolute)
    text = (inputs["input_ids"] != eager.config.image_token_id) & inputs["attention_mask"].bool()
    assert (logits[text] - expected[text]).abs().max() < 1e-4
    assert (logits[text] - eager(**inputs).logits[text]).abs().max() > 1e-2, "the stages must matter"


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.positions == "original" and "zip" not in n])
def test_methods_drop_what_they_trace(eager: Any, processor: Any, encode: Any, name: str) -> None:
    method = METHODS[name]
    if isinstance(method, CLASP):  # the oracle knows no fusion
        method = CLASP(tokens=20, router="keyword", fusion="deep", completion=method.completion)
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with method(eager, processor) as run, torch.no_grad():
        logits = eager(**inputs).logits
    assert run.trace is not None
    cuts = [stage.cut for stage in run.schedule.stages]
    expected = masked_logits(eager, inputs, {c: [s.kept[i] for s in run.trace.samples] for i, c in enumerate(cuts)})
    assert (logits[:, -1] - expected[:, -1]).abs().max() < 1e-4


def test_contiguous_positions_equal_a_prompt_that_was_short_from_the_start(
    eager: Any, processor: Any, encode: Any
) -> None:
    inputs = encode((PROMPTS[0], (0,)))
    kept = torch.tensor([3, 4, 21, 60])
    logits, _ = pruned(eager, processor, Fixed(stages=((0, tuple(kept.tolist())),), positions="contiguous"), inputs)
    ids = inputs["input_ids"][0]
    visual = ids == eager.config.image_token_id
    stay = ~visual
    stay[visual.nonzero().squeeze(1)[kept]] = True
    with torch.no_grad():
        embeds = eager.get_input_embeddings()(ids)
        features = eager.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        embeds = embeds.masked_scatter(visual[:, None], features)[stay][None]
        expected = eager(inputs_embeds=embeds).logits[0]
    assert (logits[0, stay] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("method", [Unpruned(), Random(tokens=VISUAL), CLASP(tokens=VISUAL, fusion="deep")])
def test_all_tokens_kept_is_bit_identical(model: Any, processor: Any, encode: Any, method: Method) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1, 2)))
    with torch.no_grad():
        expected = model(**inputs).logits
        answers = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        with method(model, processor) as run:
            assert torch.equal(model(**inputs).logits, expected)
            assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), answers)
    assert all(len(kept) == VISUAL * s.images for s in run.trace.samples for kept in s.kept)


def test_one_hot_fusion_on_the_own_layer_is_bit_identical_when_other_prompts_do_fuse(
    model: Any, processor: Any, encode: Any
) -> None:
    inputs = encode(("What is the background pattern?", (0,)), ("What letter is drawn?", (1,)))
    with torch.no_grad():
        expected = model(**inputs).logits
        with CLASP(tokens=VISUAL, router="keyword")(model, processor) as run:
            logits = model(**inputs).logits
    assert [s.category for s in run.trace.samples] == ["scene", "ocr"]
    assert torch.equal(logits[0], expected[0])
    assert (logits[1, -1] - expected[1, -1]).abs().max() > 1e-3


def test_prompts_without_an_image_pass_through_untouched(model: Any, processor: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], ()), (PROMPTS[1], ()))
    with torch.no_grad():
        expected = model(**inputs).logits
        with METHODS["clasp"](model, processor) as run:
            assert torch.equal(model(**inputs).logits, expected)
    assert run.trace is None


def test_dropped_rows_of_full_length_logits_are_zero(model: Any, processor: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)))
    logits, trace = pruned(model, processor, METHODS["random"], inputs)
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    zero = (logits[0] == 0).all(dim=-1)
    assert zero.sum() == VISUAL - 16
    assert not zero[visual[trace.samples[0].kept[0]]].any()
    assert logits.shape[1] == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("layer", [1, 4])
def test_fastv_ranks_by_the_attention_maps_of_the_layer_before(
    eager: Any, processor: Any, encode: Any, layer: int
) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions[layer - 1]
    _, trace = pruned(eager, processor, FastV(tokens=10, accounting="nominal", layer=layer), inputs)
    for row, sample in enumerate(trace.samples):
        visual = inputs["input_ids"][row] == eager.config.image_token_id
        expected = maps[row, :, -1, visual].mean(dim=0).topk(10).indices.sort().values
        assert sample.kept[0].tolist() == expected.tolist()


def test_clasp_takes_pivots_by_the_instructions_attention_in_the_stages_own_layer(
    eager: Any, processor: Any, encode: Any
) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    method = CLASP(tokens=30, router="keyword", fusion="deep", stage_layers=(2, 4, 6))
    _, trace = pruned(eager, processor, method, inputs)
    tokenizer = processor.tokenizer
    for row, (sample, prompt) in enumerate(zip(trace.samples, PROMPTS, strict=False)):
        ids = inputs["input_ids"][row]
        visual = ids == eager.config.image_token_id
        words = len(tokenizer("\n" + prompt, add_special_tokens=False)["input_ids"]) - 1
        suffix = len(tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"])
        rows = slice(len(ids) - suffix - words, len(ids) - suffix)
        assert tokenizer.decode(ids[rows]) == prompt
        relevance = maps[2][row, :, rows][:, :, visual].mean(dim=(0, 1))
        assert sample.pivots[0] is not None
        pivots = sample.kept[0][sample.pivots[0]]
        assert pivots.tolist() == relevance.topk(len(pivots)).indices.sort().values.tolist()
