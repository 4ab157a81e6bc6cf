"""Every method on every backbone: counts, order, batches, decoding, exit, determinism, half precision, the oracle.

One method alone: ``pytest tests/engine/test_matrix.py -k NAME``. The tests of one case share its forward passes, and
those of one family run in one process, which builds its models once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pytest
import torch
from cases import GREEDY, INSIDE, METHODS, PROMPTS, REDUCED, masked_logits, merges, placeholders, pruned, snapshot
from families import FAMILIES, FRAMES, Family, Prompt, film, fits, picture
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.engine.trace import Trace
from clasp.methods.base import Method
from clasp.methods.clasp.method import CLASP

NEW = 2
UNEVEN = (*INSIDE, "evs", "holitom", "framefusion")
"""Methods whose number of tokens at a stage depends on the data."""
VARIED = ("llava_next", "video_llava", "qwen3_vl")
"""Families on which a method's variants run too: images in tiles, CLS and videos, a ViT that packs patches."""
COMBINATIONS = [
    (method, family)
    for family in FAMILIES
    for method in METHODS
    if method in REDUCED.get(family, METHODS)
    and fits(METHODS[method], family)
    and ("-" not in method or family in VARIED)
]


def together(family: str) -> pytest.MarkDecorator:
    """One process runs all tests of a family, so that its models are built once."""
    return pytest.mark.xdist_group(f"matrix {family}")


CASES = [
    pytest.param(method, family, id=f"{family}-{method}", marks=together(family)) for method, family in COMBINATIONS
]
HALVES = [
    pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}", marks=case.marks)
    for case in CASES
    for dtype in (torch.float16, torch.bfloat16)
    if dtype is torch.float16 or case.values[1] in VARIED
]
EACH_FAMILY = [pytest.param(family, id=family, marks=together(family)) for family in FAMILIES]


@dataclass(frozen=True)
class Subject:
    """A small model, and prompts with one picture, with several of odd sizes, without one, and with a video."""

    family: Family
    model: Any
    inside: bool
    """Whether a method merges patches inside the vision tower; that is refused where features are interpolated."""

    @cached_property
    def prompts(self) -> list[Prompt]:
        prompts = [
            Prompt(text=PROMPTS[0], images=[picture(48, 48, 0)]),
            Prompt(text=PROMPTS[1], images=[picture(75, 37, 1), picture(44, 76, 2)]),
            Prompt(text=PROMPTS[2]),
        ]
        if self.family.takes_videos and not (self.inside and self.family.name == "llava_onevision"):
            prompts.append(Prompt(text=PROMPTS[0], videos=[film(FRAMES[self.family.name], 48, 48, 3)]))
        return prompts

    @cached_property
    def batch(self) -> Any:
        return self.cast(self.family.inputs(self.prompts))

    @cached_property
    def uneven(self) -> Any:
        """A picture's prompt beside a short one without, which is padded."""
        return self.cast(self.family.inputs([self.prompts[0], self.prompts[2]]))

    @cached_property
    def plain(self) -> Tensor:
        """The batch's logits without a method."""
        with torch.no_grad():
            return self.model(**self.batch).logits

    @cached_property
    def plain_single(self) -> Tensor:
        """Those of the first prompt alone."""
        with torch.no_grad():
            return self.model(**self.singles[0]).logits

    @cached_property
    def singles(self) -> list[Any]:
        return [self.cast(self.family.inputs([prompt])) for prompt in self.prompts]

    def cast(self, inputs: Any) -> Any:
        return inputs.to(self.model.dtype)

    def forward(self, method: Method, inputs: Any) -> tuple[Tensor, Trace]:
        with method(self.model, self.family.processor()) as run, torch.no_grad():
            logits = self.model(**inputs).logits
        assert run.trace is not None
        return logits, run.trace

    def generate(self, method: Method, inputs: Any) -> tuple[Any, Trace | None]:
        with method(self.model, self.family.processor()) as run, torch.no_grad():
            output = self.model.generate(**inputs, max_new_tokens=NEW, **GREEDY)
        return output, run.trace


@lru_cache
def subject(family: str, attention: str, dtype: torch.dtype = torch.float32, inside: bool = False) -> Subject:
    model = FAMILIES[family].model(attention, dtype)
    made = Subject(FAMILIES[family], model, inside)
    with torch.no_grad():
        model(**made.uneven)  # transformers installs its hooks at the first forward; the engine must not remove those
    return made


def subject_for(method: str, family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Subject:
    return subject(family, attention, dtype, method.startswith(INSIDE))


@pytest.mark.parametrize(("name", "family"), CASES)
def test_batch_equals_one_by_one_through_decoding(name: str, family: str) -> None:
    on, method = subject_for(name, family), METHODS[name]
    together, trace = on.generate(method, on.batch)
    for row, inputs in enumerate(on.singles):
        alone, single = on.generate(method, inputs)
        for step in range(NEW):
            assert (together.logits[step][row] - alone.logits[step][0]).abs().max() < 1e-3, (row, step)
        if single is not None:
            for ours, theirs in zip(trace.samples[row].kept, single.samples[0].kept, strict=True):
                assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("name", "family"), CASES)
def test_counts_order_determinism_exit_and_eager_attention(name: str, family: str) -> None:
    on, method = subject_for(name, family), METHODS[name]
    plain, single = on.plain, on.plain_single
    before = snapshot(on.model)
    logits, trace = on.forward(method, on.batch)
    assert snapshot(on.model) == before, "something is left on the model"
    with torch.no_grad():
        assert torch.equal(on.model(**on.singles[0]).logits, single), "something is left behind"
    again, _ = on.forward(method, on.batch)
    assert torch.equal(logits, again), "the same input gives another answer"
    assert (logits[:, -1] - plain[:, -1]).abs().max() > 1e-3, "pruning must matter"
    eager = subject_for(name, family, "eager")
    expected, other = eager.forward(method, eager.batch)
    assert (logits - expected).abs().max() < 1e-3, "eager attention and sdpa differ"
    for sample, same in zip(trace.samples, other.samples, strict=True):
        assert [kept.tolist() for kept in sample.kept] == [kept.tolist() for kept in same.kept]
    exact = not name.startswith(UNEVEN) and "adaptive" not in name
    adapter = adapter_for(on.model)
    counts = placeholders(on.model, on.batch["input_ids"]).sum(dim=1).tolist()
    for sample, prompt, visual in zip(trace.samples, on.prompts, counts, strict=True):
        assert sample.images == len(prompt.images) + len(prompt.videos)
        previous = set(range(visual))
        for kept in sample.kept:
            indices = kept.tolist()
            assert indices == sorted(set(indices))
            assert set(indices) <= previous
            assert indices, "at least one visual token stays"
            previous = set(indices)
        if exact and sample.images == 1:
            stages = method.schedule(visual, len(adapter.layers)).stages
            assert [len(kept) for kept in sample.kept] == [stage.keep for stage in stages]
    assert trace.samples[2].kept == ()
    rows = [s.text_tokens for s in trace.samples]
    held = [
        max(rows[i] + s.visual_cached[layer] for i, s in enumerate(trace.samples))
        for layer in range(len(adapter.layers))
    ]
    width = 2 * adapter.geometry.kv_dim * 4
    assert trace.kv_bytes == sum(held) * width * len(rows), "tokens are really dropped from the cache"


@pytest.mark.parametrize(("name", "family"), [case for case in CASES if not merges(case.values[0])])
def test_dropping_equals_masking(name: str, family: str) -> None:
    on = subject_for(name, family, "eager")
    method = dataclasses.replace(METHODS[name], positions="original")
    if isinstance(method, CLASP):  # the oracle knows no fusion
        method = dataclasses.replace(method, fusion="deep")
    logits, run = pruned(family, method, on.batch, "eager")
    assert (logits[:, -1] - masked_logits(run, on.batch)[:, -1]).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "family", "dtype"), HALVES)
def test_half_precision_has_no_nan(name: str, family: str, dtype: torch.dtype) -> None:
    on = subject_for(name, family, dtype=dtype)
    logits, trace = on.forward(METHODS[name], on.uneven)
    assert logits[:, -1].isfinite().all()
    assert all(len(kept) for sample in trace.samples for kept in sample.kept)


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_all_tokens_kept_is_bit_identical(family: str, attention: str) -> None:
    on = subject(family, attention)
    expected = on.plain
    with torch.no_grad():
        answers = on.model.generate(**on.batch, max_new_tokens=NEW, do_sample=False)
    for method in (METHODS["random"], METHODS["fastv"], CLASP(ratio=0.0, fusion="deep", router="keyword")):
        whole = dataclasses.replace(method, ratio=0.0)
        logits, trace = on.forward(whole, on.batch)
        assert torch.equal(logits, expected)
        assert all(len(kept) == sample.visual_entering[0] for sample in trace.samples for kept in sample.kept)
        output, _ = on.generate(whole, on.batch)
        assert torch.equal(output.sequences, answers)


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_decoding_with_cache_equals_recomputing(family: str, positions: Any) -> None:
    on = subject(family, "sdpa")
    for name in ("random", "divprune", "fastervlm", "clasp"):
        method = dataclasses.replace(METHODS[name], positions=positions)
        with on.family.pruned_by(method), torch.no_grad():
            cached = on.model.generate(**on.batch, **GREEDY, max_new_tokens=NEW)
            recomputed = on.model.generate(**on.batch, **GREEDY, max_new_tokens=NEW, use_cache=False)
        for with_cache, without in zip(cached.logits, recomputed.logits, strict=True):
            assert (with_cache - without).abs().max() < 1e-4, name


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_several_beams_of_each_prompt_equal_those_of_it_alone_and_need_no_cache(family: str) -> None:
    on = subject(family, "sdpa")
    options = {"max_new_tokens": NEW, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    for name in ("random", "visionzip", "clasp-farthest"):
        with on.family.pruned_by(METHODS[name]), torch.no_grad():
            together = on.model.generate(**on.batch, **options)
            assert torch.equal(together, on.model.generate(**on.batch, **options, use_cache=False)), name
            for row, inputs in enumerate(on.singles):
                alone = on.model.generate(**inputs, **options)
                assert together[2 * row : 2 * row + 2, -NEW:].equal(alone[:, -NEW:]), (name, row)


@pytest.mark.parametrize("name", INSIDE)
def test_merging_under_flash_attention_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on = subject("llava_next", "sdpa")
    monkeypatch.setattr(on.model.model.vision_tower.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="flash attention does not take; load the model with attention='sdpa'"):
        METHODS[name](on.model, on.family.processor())


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_fallbacks_name_what_a_backbone_lacks(family: str) -> None:
    on = subject(family, "sdpa")
    notes = METHODS["visionzip"](on.model, on.family.processor()).fallbacks
    geometry = adapter_for(on.model).geometry
    assert any("no CLS" in note for note in notes) == (not geometry.cls)
    assert any("multimodal rotary" in note for note in notes) == geometry.multimodal_rotary
    if geometry.multimodal_rotary:  # `positions` changes nothing there, as the note says
        original = dataclasses.replace(METHODS["fastervlm"], positions="original")
        contiguous = dataclasses.replace(original, positions="contiguous")
        assert torch.equal(on.forward(original, on.batch)[0], on.forward(contiguous, on.batch)[0])
        answers = [on.generate(method, on.batch)[0].sequences.tolist() for method in (original, contiguous)]
        assert answers[0] == answers[1]
