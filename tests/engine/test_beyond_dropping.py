"""What stages do beside dropping equally many tokens of each row: merged tokens that count by size, rows of unequal
counts, cuts in the cache of earlier layers, merging and dropping inside the vision tower. Against full forwards."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from cases import (
    GREEDY,
    LAYERS,
    LLAVA,
    PROMPTS,
    VISUAL,
    Fixed,
    llava_inputs,
    masked_forward,
    masked_logits,
    placeholders,
    pruned,
    recorded,
)
from families import FAMILIES
from probe import ONE, visual_and_words
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from clasp.backbones import adapter_for
from clasp.backbones.base import UnsupportedError
from clasp.budget import Schedule, Stage
from clasp.methods.base import Method
from clasp.methods.flowcut import FlowCut
from clasp.methods.ivcprune import IVCPrune
from clasp.methods.pact import PACT
from clasp.methods.protocols import Patches, Selection, State

CUT, KEPT = 3, (1, 4, 10, 11, 30, 63)
SIZES = (1.0, 5.0, 2.0, 40.0, 1.0, 3.0)
NEW = 3


@dataclass(frozen=True, kw_only=True)
class Weighed(Fixed):
    """Keeps the given places; from then on, each counts as several tokens in attention."""

    def weighs(self) -> bool:
        return True

    def select(self, state: State, keep: int) -> Selection:
        index = super().select(state, keep).index
        sizes = SIZES if state.stage.layer == self.stages[0][0] else SIZES[::2]
        return Selection(index, sizes=torch.tensor(sizes).expand(len(index), -1))


@dataclass(frozen=True, kw_only=True)
class Cutting(Fixed):
    """Keeps the given places, also in the cache of the layers before."""

    cuts_passed: ClassVar[bool] = True


def padded_rows() -> Any:
    """Two prompts of one picture, the second one padded."""
    return llava_inputs((PROMPTS[0], (0,)), (PROMPTS[2], (1,)))


def generated(model: Any, method: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """A greedy answer and the run."""
    with method(model, LLAVA.processor()) as run, torch.no_grad():
        return model.generate(**inputs, max_new_tokens=NEW, **GREEDY, **options), run


def biased(model: Any, inputs: Any, cut: int) -> Any:
    """Output of a full forward in which, from ``cut`` on, what was dropped is masked and sizes add their logarithm."""
    visual = placeholders(model, inputs["input_ids"])

    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"].clone()
        for row in range(len(mask)):
            mask[row, :, :, visual[row].nonzero().squeeze(1)[list(KEPT)]] += torch.tensor(SIZES).log()
        return args, {**kwargs, "attention_mask": mask}

    with ExitStack() as hooks:
        for layer in model.model.language_model.layers[cut:]:
            hooks.enter_context(layer.register_forward_pre_hook(hook, with_kwargs=True))
        kept = [torch.tensor(KEPT)] * len(visual)
        return masked_forward(model, inputs, {cut: kept}, output_attentions=True)


@pytest.mark.parametrize("cut", [0, CUT])
def test_sizes_add_their_logarithm_to_attention(eager: Any, cut: int) -> None:
    inputs = padded_rows()
    logits, _ = pruned("llava", Weighed(stages=((cut, KEPT),)), inputs, "eager")
    plain = masked_forward(eager, inputs, {cut: [torch.tensor(KEPT)] * 2}).logits
    assert (logits - biased(eager, inputs, cut).logits)[:, -1].abs().max() < 1e-4
    assert (logits - plain)[:, -1].abs().max() > 1e-2, "sizes matter"


@pytest.mark.parametrize("stages", [((0, KEPT),), ((CUT, KEPT),), ((2, KEPT), (5, (0, 2, 4)))])
def test_sizes_count_in_decoding_as_in_prefill(model: Any, stages: Any) -> None:
    inputs, method = padded_rows(), Weighed(stages=stages)
    cached, recomputed = (generated(model, method, inputs, use_cache=use)[0].logits for use in (True, False))
    for step, (one, other) in enumerate(zip(cached, recomputed, strict=True)):
        assert (one - other).abs().max() < 1e-4, step


def test_attention_that_a_later_stage_looks_at_has_the_sizes_too(eager: Any) -> None:
    """Equal to the model's own attention in that layer with the sizes of the stage before."""
    seen: list[Tensor] = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(Weighed):
        def select(self, state: State, keep: int) -> Selection:
            seen.append(state.attention("last")[0])
            return super().select(state, keep)

    inputs = llava_inputs((PROMPTS[0], (0,)))
    pruned("llava", Looking(stages=((CUT, KEPT), (CUT + 1, (0, 2, 4)))), inputs, "eager")
    places = placeholders(eager, inputs["input_ids"][0]).nonzero().squeeze(1)[list(KEPT)]
    maps = biased(eager, inputs, CUT).attentions[CUT + 1]
    torch.testing.assert_close(seen[1], maps[0, :, -1, places].mean(dim=0), atol=1e-5, rtol=1e-3)


def test_attention_that_takes_no_bias_is_refused_by_name(eager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(UnsupportedError, match="'pact' weighs merged tokens by an attention bias, which flash"):
        PACT(ratio=0.6)(eager, LLAVA.processor())
    PACT(ratio=0.6, proportional=False)(eager, LLAVA.processor())


# Counts that differ between rows --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ragged(Fixed):
    """Keeps the first 2 of the given places in the first row, the first 3 in the second row, and so on."""

    name: ClassVar[str] = "ragged"

    def select(self, state: State, keep: int) -> Selection:
        rows = len(state.tokens())
        index = torch.tensor(self.stages[0][1]).expand(rows, -1)
        return Selection(index, valid=torch.arange(index.shape[1]) < torch.arange(2, 2 + rows)[:, None])


def test_counts_may_differ_between_rows() -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[1], (1,)))
    logits, run = pruned("llava", Ragged(stages=((2, (7, 20, 21, 50)),)), inputs, "eager")
    assert [sample.kept[0].tolist() for sample in run.trace.samples] == [[7, 20], [7, 20, 21]]
    assert [s.visual_leaving[-1] for s in run.trace.samples] == [2, 3]
    assert (logits[:, -1] - masked_logits(run, inputs)[:, -1]).abs().max() < 1e-4


# Caches of layers already passed -------------------------------------------------------------------------------------


def test_a_cut_cache_decodes_as_if_what_was_dropped_were_masked_in_every_layer(model: Any) -> None:
    inputs = padded_rows()
    visual = placeholders(model, inputs["input_ids"])
    output, run = generated(model, Cutting(stages=((CUT, KEPT),)), inputs)
    length = int((~visual).sum(dim=1).max()) + len(KEPT)
    lengths = {layer.keys.shape[2] for layer in output.past_key_values.layers}
    assert lengths == {length + NEW - 1}, "of every layer"
    assert run.trace.samples[0].visual_cached == (len(KEPT),) * LAYERS
    assert run.trace.samples[0].visual_entering == (VISUAL,) * CUT + (len(KEPT),) * (LAYERS - CUT)

    if model.config._attn_implementation != "eager":  # the oracle changes masks, which sdpa leaves out
        return
    step = masked_forward(model, inputs, {CUT: [torch.tensor(KEPT)] * 2}, use_cache=True)
    mask = inputs["attention_mask"].masked_fill(visual, 0)
    for row in range(2):
        mask[row, visual[row].nonzero().squeeze(1)[list(KEPT)]] = 1
    for number in range(NEW):
        assert (step.logits[:, -1] - output.logits[number]).abs().max() < 1e-4, number
        mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
        with torch.no_grad():
            step = model(
                input_ids=output.sequences[:, inputs["input_ids"].shape[1] + number, None],
                attention_mask=mask,
                position_ids=torch.full((2, 1), mask.shape[1] - 1),  # a plain forward counts padding, too
                past_key_values=step.past_key_values,
            )


def test_several_stages_cut_what_earlier_ones_left(model: Any) -> None:
    inputs = llava_inputs((PROMPTS[0], (0,)), (PROMPTS[0], (1,)))  # no padding, which holds anything
    caches = []
    for stages in (((2, KEPT), (5, (1, 3))), ((2, (KEPT[1], KEPT[3])),)):
        with Cutting(stages=stages)(model, LLAVA.processor()), torch.no_grad():
            caches.append(model(**inputs, use_cache=True).past_key_values)
    twice, once = caches
    for number in range(2):  # layers that computed on everything
        assert torch.equal(twice.layers[number].keys, once.layers[number].keys)
        assert torch.equal(twice.layers[number].values, once.layers[number].values)
    assert len({layer.keys.shape for layer in twice.layers}) == 1


def test_a_cache_that_cannot_be_cut_is_refused_by_name(eager: Any) -> None:
    cache = DynamicCache(config=eager.config.get_text_config())
    cache.layers[0] = DynamicSlidingWindowLayer(sliding_window=500)
    with LLAVA.pruned_by(IVCPrune(ratio=0.6), "eager"), pytest.raises(UnsupportedError, match="WindowLayer does"):
        eager(**llava_inputs((PROMPTS[0], (0,))), past_key_values=cache, use_cache=True)


# Inside the vision tower ---------------------------------------------------------------------------------------------


def test_patches_dropped_inside_the_tower_are_absent_from_its_later_layers(eager: Any) -> None:
    """The tower's layers run by hand on what each merge leaves give the projector's input."""
    targets: list[Tensor | None] = []

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

    layers, inputs = eager.model.vision_tower.encoder.layers, llava_inputs((PROMPTS[0], (0,)))
    with recorded(layers[0]) as entered, recorded(eager.model.multi_modal_projector) as given:
        _, run = pruned("llava", Noting(ratio=0.6), inputs, "eager")
    kept, hidden, projected = run.trace.samples[0].kept[0], entered[0][0][0], given[0][0][0]
    assert len(kept) == round(0.4 * VISUAL)
    left = torch.arange(VISUAL)
    for layer in range(run.adapter.geometry.feature_layer):
        with torch.no_grad():
            hidden = layers[layer](hidden, attention_mask=None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        target = targets[layer] if layer < len(targets) else None
        if target is not None:
            stay = (target[0] >= 0).nonzero().squeeze(1)
            left, hidden = left[stay], hidden[:, [0, *(stay + 1).tolist()]]
    assert left.tolist() == kept.tolist()
    torch.testing.assert_close(projected[0, kept], hidden[0, 1:], atol=1e-4, rtol=1e-3)
    assert len({tuple(row) for row in projected[0].tolist()}) == len(kept), "what left has no features of its own"


@dataclass(frozen=True, kw_only=True)
class Pairs(Method):
    """Merges each patch of an odd place into the one before it, after the first two ViT layers; what is left enters the
    decoder in reverse order."""

    name: ClassVar[str] = "pairs"
    scope: ClassVar[Any] = "crop"
    ratio: float | None = 0.5
    weighing: bool = True
    """Whether the ViT counts sizes."""
    seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weighs_merged", self.weighing)

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        return Schedule(visual_tokens, layers, (Stage(0, visual_tokens // 4),))

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1, feature_layer)

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        return (0, 1)

    def merge(self, layer: int, patches: Patches) -> Tensor:
        places = torch.arange(patches.hidden.shape[1])
        return (places - places % 2).expand(len(patches.hidden), -1)

    def leading(self, layer: int, patches: Patches) -> Tensor | None:
        numbers = torch.arange(patches.hidden.shape[1], dtype=torch.float32)
        return numbers.expand(len(patches.hidden), -1) if layer == 1 else None

    def select(self, state: State, keep: int) -> Selection:
        vision = state.vision()
        attention, stays = vision.attention(vision.last_layer), vision.representatives()
        assert torch.allclose(vision.attention_heads(vision.last_layer).mean(dim=1), attention, atol=1e-6)
        self.seen.append((attention, vision.sequence(), vision.groups(), stays, vision.last_layer))
        return Selection(stays.int().argsort(dim=1, descending=True, stable=True)[:, :keep])


@pytest.mark.parametrize("weighing", [True, False])
@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
def test_merging_inside_the_tower_equals_a_plain_loop(family: str, weighing: bool) -> None:
    """Where sizes do not count, attention is a softmax over what is left, of which each merged patch is one."""
    model, method = FAMILIES[family].model(), Pairs(weighing=weighing)
    adapter, inputs = adapter_for(model), FAMILIES[family].inputs([ONE, ONE])
    layers: Any = adapter.vision_layers("image")
    both = layers[0], model.model.language_model.layers[0]
    with torch.no_grad(), FAMILIES[family].pruned_by(method) as run, recorded(*both, prepend=True) as calls:
        model(**inputs)
    (crops, *_), (decoded, *_) = (args for args, _ in calls)
    ours, sequence, groups, stays, last = method.seen[0]
    hidden, cls = crops[:1], int(adapter.geometry.cls)
    sizes, states = torch.ones(adapter.patches), [hidden]
    with torch.no_grad():
        for index in range(last + 1):
            bias = torch.cat([torch.zeros(cls), sizes.log()])[None, None, None] if weighing else None
            if index == last:
                normed, attention = layers[last].layer_norm1(hidden), layers[last].self_attn
                query, key = (
                    projection(normed)[0].unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)
                    for projection in (attention.q_proj, attention.k_proj)
                )
                maps = (query @ key.transpose(1, 2) * attention.scale).softmax(dim=-1).mean(dim=0)
            hidden = layers[index](hidden, bias)
            if index < 2:
                patches, merged = hidden[0, cls:], []
                for place in range(0, len(patches), 2):
                    pair, weight = patches[place : place + 2], sizes[place : place + 2]
                    merged.append((pair * weight[:, None]).sum(dim=0) / weight.sum())
                members = torch.arange(adapter.patches).split(2 ** (index + 1))
                sizes = torch.tensor([float(len(group)) if weighing else 1.0 for group in members])
                hidden = torch.cat([hidden[0, :cls], torch.stack(merged)])[None]
            states.append(hidden)
        features = torch.empty(adapter.patches, hidden.shape[-1])
        for feature, group in zip(states[adapter.geometry.feature_layer][0, cls:], members, strict=True):
            features[group] = feature
        projected = adapter.project(features[None])[0]
    left = stays[0].nonzero()[:, 0]
    assert left.tolist() == [int(group[0]) for group in members]
    if not weighing:
        expected = maps[0, cls:] if cls else maps.mean(dim=0)
        assert torch.allclose(ours[0], expected[torch.arange(adapter.patches) // 4], atol=1e-5)
    order = left[sequence[0, left].argsort()].tolist()
    if family == "llava":
        visual, _ = visual_and_words("llava", ONE)
        assert torch.allclose(decoded[0, visual], projected, atol=1e-4)
        assert run.trace.samples[1].kept[0].tolist() == left.tolist()
        assert set(groups.tolist()) == {len(left)}
        assert order == left.flip(0).tolist()
    else:
        assert int(groups[0]) > len(left), "those of all crops"
        assert order == left.tolist(), "pictures of several crops keep their order"
