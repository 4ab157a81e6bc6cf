"""The engine against independent computations of the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import METHODS, PROMPTS, VISUAL, Fixed, masked_logits, pruned

from clasp.methods.clasp.method import CLASP
from clasp.methods.random import Random

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
    logits, trace = pruned("llava", Fixed(stages=stages), inputs, "eager")
    absolute = {layer: [s.kept[i] for s in trace.samples] for i, (layer, _) in enumerate(stages)}
    visual = inputs["input_ids"] == eager.config.image_token_id
    expected = masked_logits(eager, inputs, visual, absolute)
    text = (inputs["input_ids"] != eager.config.image_token_id) & inputs["attention_mask"].bool()
    assert (logits[text] - expected[text]).abs().max() < 1e-4
    assert (logits[text] - eager(**inputs).logits[text]).abs().max() > 1e-2, "the stages must matter"


def test_contiguous_positions_equal_a_prompt_that_was_short_from_the_start(eager: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)))
    kept = torch.tensor([3, 4, 21, 60])
    method = Fixed(stages=((0, tuple(kept.tolist())),), positions="contiguous")
    logits, _ = pruned("llava", method, inputs, "eager")
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
    logits, trace = pruned("llava", Random(tokens=16), inputs, model.config._attn_implementation)
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    zero = (logits[0] == 0).all(dim=-1)
    assert zero.sum() == VISUAL - 16
    assert not zero[visual[trace.samples[0].kept[0]]].any()
    assert logits.shape[1] == inputs["input_ids"].shape[1]


def test_clasp_takes_pivots_by_the_instructions_attention_in_the_stages_own_layer(
    eager: Any, processor: Any, encode: Any
) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    method = CLASP(tokens=30, router="keyword", fusion="deep", stage_layers=(2, 4, 6))
    _, trace = pruned("llava", method, inputs, "eager")
    tokenizer = processor.tokenizer
    for row, (sample, prompt) in enumerate(zip(trace.samples, PROMPTS, strict=False)):
        ids = inputs["input_ids"][row]
        visual = ids == eager.config.image_token_id
        end = len(ids) - len(tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"])
        # how a question begins depends on what stands before it, so its length is found in the prompt
        rows = next(slice(n, end) for n in range(end, 0, -1) if tokenizer.decode(ids[n:end]) == prompt)
        relevance = maps[2][row, :, rows][:, :, visual].mean(dim=(0, 1))
        assert sample.pivots[0] is not None
        pivots = sample.kept[0][sample.pivots[0]]
        assert pivots.tolist() == relevance.topk(len(pivots)).indices.sort().values.tolist()
