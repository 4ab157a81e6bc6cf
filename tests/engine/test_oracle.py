"""The engine on the small LLaVA against independent computations of the same thing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import LLAVA, METHODS, PROMPTS, VISUAL, Fixed, llava_inputs, masked_logits, placeholders, pruned

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
def test_dropping_equals_masking_from_that_layer_on(eager: Any, stages: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    logits, run = pruned("llava", Fixed(stages=stages), inputs, "eager")
    expected = masked_logits(run, inputs)
    text = ~placeholders(eager, inputs["input_ids"]) & inputs["attention_mask"].bool()
    assert (logits[text] - expected[text]).abs().max() < 1e-4
    assert (logits[text] - eager(**inputs).logits[text]).abs().max() > 1e-2, "the stages must matter"


@pytest.mark.parametrize("kept", [(3, 4, 21, 60), (40, 3, 21, 60, 4)], ids=["ascending", "in another order"])
def test_contiguous_positions_equal_a_prompt_of_the_kept_tokens_alone(eager: Any, kept: tuple[int, ...]) -> None:
    """In the method's order, which is the order in the sequence."""
    inputs = llava_inputs((PROMPTS[0], (0,)))
    logits, run = pruned("llava", Fixed(stages=((0, kept),), positions="contiguous"), inputs, "eager")
    ids = inputs["input_ids"][0]
    visual = placeholders(eager, ids).nonzero().squeeze(1)
    order = torch.cat([torch.arange(int(visual[0])), visual[list(kept)], torch.arange(int(visual[-1]) + 1, len(ids))])
    with torch.no_grad():
        embeds = eager.get_input_embeddings()(ids)
        embeds[visual] = eager.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        expected = eager(inputs_embeds=embeds[order][None]).logits[0]
    assert (logits[0, order] - expected).abs().max() < 1e-4
    assert run.trace.samples[0].kept[0].tolist() == sorted(kept)


def test_one_hot_fusion_on_the_own_layer_is_bit_identical_when_other_prompts_do_fuse(model: Any) -> None:
    inputs = llava_inputs(("What is the background pattern?", (0,)), ("What letter is drawn?", (1,)))
    with torch.no_grad():
        expected = model(**inputs).logits
        with CLASP(tokens=VISUAL, router="keyword")(model, LLAVA.processor()) as run:
            logits = model(**inputs).logits
    assert [s.category for s in run.trace.samples] == ["scene", "ocr"]
    assert torch.equal(logits[0], expected[0])
    assert (logits[1, -1] - expected[1, -1]).abs().max() > 1e-3


def test_prompts_without_an_image_pass_through_untouched(model: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], ()), (PROMPTS[1], ()))
    with torch.no_grad():
        expected = model(**inputs).logits
        with METHODS["clasp"](model, LLAVA.processor()) as run:
            assert torch.equal(model(**inputs).logits, expected)
    assert run.trace is None


def test_dropped_rows_of_full_length_logits_are_zero(model: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)))
    logits, run = pruned("llava", Random(tokens=16), inputs, model.config._attn_implementation)
    visual = placeholders(model, inputs["input_ids"][0]).nonzero().squeeze(1)
    zero = (logits[0] == 0).all(dim=-1)
    assert zero.sum() == VISUAL - 16
    assert not zero[visual[run.trace.samples[0].kept[0]]].any()
    assert logits.shape[1] == inputs["input_ids"].shape[1]


def test_clasp_takes_pivots_by_the_instructions_attention_in_the_stages_own_layer(eager: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    method = CLASP(tokens=30, router="keyword", fusion="deep", stage_layers=(2, 4, 6))
    _, run = pruned("llava", method, inputs, "eager")
    tokenizer = LLAVA.processor().tokenizer
    for row, (sample, prompt) in enumerate(zip(run.trace.samples, PROMPTS, strict=False)):
        ids = inputs["input_ids"][row]
        end = len(ids) - len(tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"])
        # how a question begins depends on what stands before it, so its length is found in the prompt
        rows = next(slice(n, end) for n in range(end, 0, -1) if tokenizer.decode(ids[n:end]) == prompt)
        relevance = maps[2][row, :, rows][:, :, placeholders(eager, ids)].mean(dim=(0, 1))
        assert sample.pivots[0] is not None
        pivots = sample.kept[0][sample.pivots[0]]
        assert pivots.tolist() == relevance.topk(len(pivots)).indices.sort().values.tolist()
