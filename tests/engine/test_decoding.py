"""Decoding on pruned caches, batches, beams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import METHODS, PROMPTS, Fixed

from clasp.methods.base import Method
from clasp.methods.none import Unpruned

NEW = 5
MIXED = ((PROMPTS[0], (0,)), (PROMPTS[1], (1, 2)), (PROMPTS[2], ()), (PROMPTS[2], (3,)))


def answer(model: Any, processor: Any, method: Method, inputs: Any, **options: Any) -> Any:
    with method(model, processor) as run, torch.no_grad():
        output = model.generate(
            **inputs,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=options.get("num_beams", 1) == 1,
            **options,
        )
    return output, run.trace


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_decoding_with_cache_equals_recomputing(
    model: Any, processor: Any, encode: Any, stage: int, positions: Any
) -> None:
    method = Fixed(stages=((stage, (1, 20, 21, 50)), (5, (0, 2))), positions=positions)
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    cached, _ = answer(model, processor, method, inputs)
    recomputed, _ = answer(model, processor, method, inputs, use_cache=False)
    for step, (with_cache, without) in enumerate(zip(cached.logits, recomputed.logits, strict=True)):
        assert (with_cache - without).abs().max() < 1e-4, f"step {step}"


@pytest.mark.parametrize("name", ["random", "clasp", "visionzip"])
def test_beams_of_a_batch_equal_beams_one_by_one(model: Any, processor: Any, encode: Any, name: str) -> None:
    prompts = MIXED[:2]
    together, trace = answer(model, processor, METHODS[name], encode(*prompts), num_beams=3)
    assert len(trace.samples) == 6
    assert trace.samples[0].kept[-1].tolist() == trace.samples[2].kept[-1].tolist()
    for row, prompt in enumerate(prompts):
        alone, _ = answer(model, processor, METHODS[name], encode(prompt), num_beams=3)
        assert together.sequences[row, -NEW:].tolist() == alone.sequences[0, -NEW:].tolist()


def test_beams_with_cache_equal_beams_without(model: Any, processor: Any, encode: Any) -> None:
    method = Fixed(stages=((0, tuple(range(0, 64, 3))), (4, (1, 5, 9))))
    inputs = encode(*MIXED[:1], MIXED[3])
    cached, _ = answer(model, processor, method, inputs, num_beams=3)
    recomputed, _ = answer(model, processor, method, inputs, num_beams=3, use_cache=False)
    assert cached.sequences.tolist() == recomputed.sequences.tolist()


def test_a_generated_placeholder_is_text(model: Any, processor: Any, encode: Any) -> None:
    image = model.config.image_token_id
    inputs = encode(MIXED[0], MIXED[2])
    for name in ("none", "random"):
        method = METHODS.get(name, Unpruned())
        with method(model, processor), torch.no_grad():
            seen = inputs["attention_mask"].cumsum(dim=1)
            cache = model(**inputs, position_ids=(seen - 1).clamp(min=0), use_cache=True).past_key_values
            fresh = torch.full((2, 1), image)
            grown = torch.cat([inputs["attention_mask"], torch.ones_like(fresh)], dim=1)
            step = model(input_ids=fresh, attention_mask=grown, position_ids=seen[:, -1:], past_key_values=cache)
        assert step.logits.isfinite().all()
