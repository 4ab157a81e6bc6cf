"""What stages do beside dropping: clusters that count by size, caches of passed layers that are cut, patches that leave
inside the vision tower. Against full forwards of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from cases import LAYERS, PROMPTS, VISUAL, Fixed, masked_forward
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from clasp.backbones.base import UnsupportedError
from clasp.methods.flowcut import FlowCut
from clasp.methods.ivcprune import IVCPrune
from clasp.methods.pact import PACT
from clasp.methods.protocols import Patches, Selection, State

CUT, KEPT = 3, (1, 4, 10, 11, 30, 63)
SIZES = (1.0, 5.0, 2.0, 40.0, 1.0, 3.0)
NEW = 3


@dataclass(frozen=True, kw_only=True)
class Weighed(Fixed):
    """Keeps the given places, which from then on count as so many tokens."""

    sizes: tuple[float, ...] = SIZES

    def weighs(self) -> bool:
        return True

    def select(self, state: State, keep: int) -> Selection:
        index = super().select(state, keep).index
        sizes = self.sizes if state.stage.layer == self.stages[0][0] else self.sizes[::2]
        return Selection(index, sizes=torch.tensor(sizes).expand(len(index), -1))


@dataclass(frozen=True, kw_only=True)
class Cutting(Fixed):
    """Keeps the given places, also in the cache of the layers before."""

    cuts_passed: ClassVar[bool] = True


def generated(model: Any, processor: Any, method: Any, inputs: Any, **options: Any) -> tuple[list[Tensor], Any]:
    with method(model, processor) as run, torch.no_grad():
        output = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True, output_logits=True, **options
        )
    return list(output.logits), (output, run.trace)


def biased(model: Any, inputs: Any, visual: Tensor, cut: int) -> Tensor:
    """Logits of a full forward in which, from ``cut`` on, what was dropped is masked and sizes add their logarithm."""

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        for row in range(len(mask)):
            places = visual[row].nonzero().squeeze(1)
            mask[row, :, :, places[list(KEPT)]] += torch.tensor(SIZES).log()
        return args, {**kwargs, "attention_mask": mask}

    handles = [
        layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in model.model.language_model.layers[cut:]
    ]
    try:
        kept = torch.tensor(KEPT)
        return masked_forward(model, inputs, visual, {cut: [kept] * len(visual)}).logits
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("cut", [0, CUT])
def test_sizes_add_their_logarithm_to_attention(eager: Any, processor: Any, encode: Any, cut: int) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[2], (1,)))
    visual = inputs["input_ids"] == eager.config.image_token_id
    with Weighed(stages=((cut, KEPT),))(eager, processor), torch.no_grad():
        logits = eager(**inputs).logits[:, -1]
    plain = masked_forward(eager, inputs, visual, {cut: [torch.tensor(KEPT)] * 2}).logits[:, -1]
    assert (logits - biased(eager, inputs, visual, cut)[:, -1]).abs().max() < 1e-4
    assert (logits - plain).abs().max() > 1e-2, "sizes matter"


@pytest.mark.parametrize("stages", [((0, KEPT),), ((CUT, KEPT),), ((2, KEPT), (5, (0, 2, 4)))])
def test_sizes_count_in_decoding_as_in_prefill(model: Any, processor: Any, encode: Any, stages: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[2], (1,)))
    method = Weighed(stages=stages)
    cached, _ = generated(model, processor, method, inputs)
    recomputed, _ = generated(model, processor, method, inputs, use_cache=False)
    for step, (one, other) in enumerate(zip(cached, recomputed, strict=True)):
        assert (one - other).abs().max() < 1e-4, step


def test_attention_that_a_later_stage_looks_at_has_the_sizes_too(eager: Any, processor: Any, encode: Any) -> None:
    """As the model's own: of the stage's layer, computed with the sizes of the stage before."""
    seen: list[Tensor] = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(Weighed):
        def select(self, state: State, keep: int) -> Selection:
            seen.append(state.attention("last")[0])
            return super().select(state, keep)

    inputs = encode((PROMPTS[0], (0,)))
    with Looking(stages=((CUT, KEPT), (CUT + 1, (0, 2, 4))))(eager, processor), torch.no_grad():
        eager(**inputs)
    visual = inputs["input_ids"] == eager.config.image_token_id
    maps: list[Tensor] = []
    attention = eager.model.language_model.layers[CUT + 1].self_attn
    handle = attention.register_forward_hook(lambda module, args, output: maps.append(output[1]))
    biased(eager, inputs, visual, CUT)
    handle.remove()
    places = visual[0].nonzero().squeeze(1)[list(KEPT)]
    torch.testing.assert_close(seen[1], maps[0][0, :, -1, places].mean(dim=0), atol=1e-5, rtol=1e-3)


def test_attention_that_takes_no_bias_is_refused_by_name(
    eager: Any, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UnsupportedError, match="'pact' weighs merged tokens by an attention bias, which flash"):
        PACT(ratio=0.6)(eager, processor)
    PACT(ratio=0.6, proportional=False)(eager, processor)


# Caches of layers already passed -------------------------------------------------------------------------------------


def test_a_cut_cache_decodes_as_if_what_was_dropped_were_masked_in_every_layer(
    model: Any, processor: Any, encode: Any
) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[2], (1,)))
    visual = inputs["input_ids"] == model.config.image_token_id
    logits, (output, trace) = generated(model, processor, Cutting(stages=((CUT, KEPT),)), inputs)
    length = int((~visual).sum(dim=1).max()) + len(KEPT)
    lengths = {layer.keys.shape[2] for layer in output.past_key_values.layers}
    assert lengths == {length + NEW - 1}, "of every layer"
    assert trace.samples[0].visual_cached == (len(KEPT),) * LAYERS
    assert trace.samples[0].visual_entering == (VISUAL,) * CUT + (len(KEPT),) * (LAYERS - CUT)

    twin = model if model.config._attn_implementation == "eager" else None
    if twin is None:  # the oracle changes masks, which sdpa leaves out
        return
    kept = [torch.tensor(KEPT)] * 2
    step = masked_forward(model, inputs, visual, {CUT: kept}, use_cache=True)
    assert (step.logits[:, -1] - logits[0]).abs().max() < 1e-4
    mask = inputs["attention_mask"].clone()
    for row in range(2):
        places = visual[row].nonzero().squeeze(1)
        mask[row, places] = 0
        mask[row, places[list(KEPT)]] = 1
    position = torch.full((2, 1), mask.shape[1])  # a plain forward counts padding, too
    for number in range(1, NEW):
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        with torch.no_grad():
            step = model(
                input_ids=output.sequences[:, inputs["input_ids"].shape[1] + number - 1, None],
                attention_mask=mask,
                position_ids=position + number - 1,
                past_key_values=step.past_key_values,
            )
        assert (step.logits[:, -1] - logits[number]).abs().max() < 1e-4, number


def test_several_stages_cut_what_earlier_ones_left(model: Any, processor: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)), (PROMPTS[0], (1,)))  # no padding, which holds anything
    with Cutting(stages=((2, KEPT), (5, (1, 3))))(model, processor), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
    with Cutting(stages=((2, (KEPT[1], KEPT[3])),))(model, processor), torch.no_grad():
        once = model(**inputs, use_cache=True).past_key_values
    for number in range(2):  # layers that computed on everything
        assert torch.equal(cache.layers[number].keys, once.layers[number].keys)
        assert torch.equal(cache.layers[number].values, once.layers[number].values)
    assert len({layer.keys.shape for layer in cache.layers}) == 1


def test_a_cache_that_cannot_be_cut_is_refused_by_name(model: Any, processor: Any, encode: Any) -> None:
    inputs = encode((PROMPTS[0], (0,)))
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers[0] = DynamicSlidingWindowLayer(sliding_window=500)
    with IVCPrune(ratio=0.6)(model, processor), pytest.raises(UnsupportedError, match="DynamicSlidingWindowLayer does"):
        model(**inputs, past_key_values=cache, use_cache=True)


# Inside the vision tower ---------------------------------------------------------------------------------------------


def test_patches_that_leave_inside_the_tower_are_gone_for_its_further_layers(
    eager: Any, processor: Any, encode: Any
) -> None:
    """The tower's layers run by hand on what each merge leaves give the projector's input."""
    targets: list[Tensor | None] = []
    inputs, given, entered = encode((PROMPTS[0], (0,))), list[Tensor](), list[Tensor]()

    @dataclass(frozen=True, kw_only=True)
    class Noting(FlowCut):
        def merge(self, layer: int, patches: Patches) -> Tensor | None:
            targets.append(super().merge(layer, patches))
            return targets[-1]

        def vision_states(self, feature_layer: int) -> tuple[int, ...]:
            return (feature_layer - 1,)

        def select(self, state: State, keep: int) -> Selection:
            vision = state.vision()
            attention, stays = vision.attention(vision.feature_layer - 1), vision.representatives()
            assert bool(attention.isfinite().all())
            assert float((attention * stays).sum()) <= 1.0 + 1e-5
            assert int(stays.sum()) == keep == int(vision.groups())
            return super().select(state, keep)

    tower, projector = eager.model.vision_tower, eager.model.multi_modal_projector
    note: Callable[..., Any] = lambda module, args: given.append(args[0])  # noqa: E731
    handles = [
        projector.register_forward_pre_hook(note),
        tower.encoder.layers[0].register_forward_pre_hook(lambda module, args: entered.append(args[0])),
    ]
    try:
        with Noting(ratio=0.6)(eager, processor) as run, torch.no_grad():
            eager(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    kept = run.trace.samples[0].kept[0]
    assert len(kept) == round(0.4 * VISUAL)
    left, hidden = torch.arange(VISUAL), entered[0]
    for layer in range(run.adapter.geometry.feature_layer):
        with torch.no_grad():
            hidden = tower.encoder.layers[layer](hidden, attention_mask=None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        target = targets[layer] if layer < len(targets) else None
        if target is not None:
            stay = (target[0] >= 0).nonzero().squeeze(1)
            left, hidden = left[stay], hidden[:, [0, *(stay + 1).tolist()]]
    assert left.tolist() == kept.tolist()
    torch.testing.assert_close(given[0][0, kept], hidden[0, 1:], atol=1e-4, rtol=1e-3)
    assert len({tuple(row) for row in given[0][0].tolist()}) == len(kept), "what left has no features of its own"
