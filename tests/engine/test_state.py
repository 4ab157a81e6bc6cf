"""What methods are shown at a stage, against what the model itself computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from cases import PROMPTS, Fixed, masked_logits
from families import FAMILIES, Prompt, picture
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.backbones.prompt import PromptReader
from clasp.budget import Schedule, Stage
from clasp.methods.base import Method
from clasp.methods.protocols import Patches, Selection, Span, State

Look = Callable[[State], Any]
TWO = Prompt(text=PROMPTS[1], images=[picture(91, 37, 1), picture(60, 100, 2)])
ONE = Prompt(text=PROMPTS[0], images=[picture(64, 64, 0)])


@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Keeps every other token at layer 1, and half of these at layer 3; what ``look`` returns goes into ``seen``."""

    name: ClassVar[str] = "probe"
    look: Look
    within: str = "sample"
    back: int = 0
    states: tuple[int, ...] = ()
    listen: Span = "instruction"
    layers: tuple[int, ...] = ()
    seen: list[Any] = field(default_factory=list)
    ratio: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scope", self.within)
        object.__setattr__(self, "lookback", self.back)

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        return Schedule(visual_tokens, layers, (Stage(1, visual_tokens // 2), Stage(3, visual_tokens // 4)))

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return self.states

    def span(self) -> Span:
        return self.listen

    def decoder_states(self, cuts: Sequence[int]) -> tuple[int, ...]:
        return (*super().decoder_states(cuts), *self.layers)

    def select(self, state: State, keep: int) -> Selection:
        self.seen.append(self.look(state))
        return Selection(torch.arange(keep).expand(len(state.tokens()), -1) * (state.visual_tokens // keep))


def probed(family: str, prompts: list[Prompt], look: Look, **options: Any) -> tuple[list[Any], Any]:
    """What a probe saw at each call, and the prefill's cache."""
    model, processor = FAMILIES[family].model("eager"), FAMILIES[family].processor()
    probe = Probe(look=look, **options)
    with probe(model, processor), torch.no_grad():
        cache = model(**FAMILIES[family].inputs(prompts), use_cache=True).past_key_values
    return probe.seen, cache


def visual_and_words(family: str, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Places of the placeholders and of the instruction's tokens in a prompt of its own."""
    placeholders = list(adapter_for(FAMILIES[family].model("eager")).placeholders.values())
    ids = FAMILIES[family].inputs([prompt])["input_ids"][0]
    words = PromptReader(FAMILIES[family].processor(), placeholders).positions(ids.tolist())
    return torch.isin(ids, torch.tensor(placeholders)).nonzero().squeeze(1), torch.tensor(words)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_embeddings_and_words(family: str) -> None:
    model = FAMILIES[family].model("eager")
    inputs, caught = FAMILIES[family].inputs([TWO]), {}
    handles = [
        layer.register_forward_pre_hook(lambda m, args, i=i: caught.setdefault(i, args[0]))
        for i, layer in enumerate(adapter_for(model).layers)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    visual, words = visual_and_words(family, TWO)
    (first, second), _ = probed(family, [TWO], lambda state: (state.tokens(), *state.text(), *state.embeddings()))
    tokens, text, real, embedded, embedded_words, embedded_real = first
    assert real.all()
    assert embedded_real.all()
    assert torch.allclose(tokens[0], caught[1][0, visual], atol=1e-5)
    assert torch.allclose(text[0], caught[1][0, words], atol=1e-5)
    assert torch.equal(embedded[0], caught[0][0, visual])
    assert torch.equal(embedded_words[0], caught[0][0, words])
    assert torch.equal(second[3], embedded), "what entered the decoder does not change with pruning"
    assert second[0].shape[1] == tokens.shape[1] // 2


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_text_after_the_image_is_all_that_stands_behind_the_last_one(family: str) -> None:
    """In a padded batch, the template's closing included, and what stands between two images not."""
    look: Look = lambda s: (s.text(), s.text_attention(), s.embeddings()[2])  # noqa: E731
    (first, *_), _ = probed(family, [ONE, TWO], look, within="image", listen="after_image")
    (both, *_), _ = probed(family, [TWO], look, listen="after_image")
    model = FAMILIES[family].model("eager")
    placeholders = torch.tensor(list(adapter_for(model).placeholders.values()))
    counts = []
    for prompt in (ONE, TWO):
        ids = FAMILIES[family].inputs([prompt])["input_ids"][0]
        after = len(ids) - 1 - int(torch.isin(ids, placeholders).nonzero().max())
        instruction = len(visual_and_words(family, prompt)[1])
        assert after > instruction, "the template closes the user's turn"
        counts.append(after)
    assert first[0][1].sum(dim=1).tolist()[0] in counts
    (words, real), attention, embedded = both
    assert real.sum() == embedded.sum() == counts[1]
    with torch.no_grad():
        output = model(**FAMILIES[family].inputs([TWO]), output_attentions=True, output_hidden_states=True)
    visual, _ = visual_and_words(family, TWO)
    assert torch.allclose(words[0], output.hidden_states[1][0, -counts[1] :], atol=1e-5)
    maps = output.attentions[1][0].mean(dim=0)
    assert torch.allclose(attention[0], maps[-counts[1] :][:, visual], atol=1e-4)


@pytest.mark.parametrize("back", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_key_norms(family: str, back: int) -> None:
    model = FAMILIES[family].model("eager")
    with torch.no_grad():
        output = model(**FAMILIES[family].inputs([TWO]), output_attentions=True, use_cache=True)
    visual, words = visual_and_words(family, TWO)
    maps = output.attentions[1 - back][0].mean(dim=0)
    norms = output.past_key_values.layers[1 - back].keys[0].abs().sum(dim=(0, 2))
    look: Look = lambda s: (s.attention("last"), s.attention("instruction"), s.text_attention(), *s.key_norms())  # noqa: E731
    (first, *_), _ = probed(family, [TWO], look, back=back)
    expected = (
        maps[-1, visual],
        maps[words][:, visual].mean(dim=0),
        maps[words][:, visual],
        norms[visual],
        norms[words],
    )
    for ours, theirs in zip(first, expected, strict=True):
        assert torch.allclose(ours[0], theirs, atol=1e-4)


def test_padding_takes_no_part() -> None:
    look: Look = lambda s: (s.text_attention(), s.attention("instruction"), s.key_norms()[1], s.text()[1])  # noqa: E731
    for family in ("llava", "qwen2_5_vl"):
        same = Prompt(text="What is this, and where was it taken, do you think?", images=ONE.images)
        together, _ = probed(family, [ONE, same], look)
        for row, prompt in enumerate((ONE, same)):
            (alone, *_), _ = probed(family, [prompt], look)
            count = int(alone[3].sum())
            assert torch.allclose(together[0][0][row, :count], alone[0][0], atol=1e-5)
            assert (together[0][0][row, count:] == 0).all()
            assert torch.allclose(together[0][1][row], alone[1][0], atol=1e-5)
            assert (together[0][2][row, count:] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_towers_values_of_several_images_are_those_of_each(family: str) -> None:
    layer = adapter_for(FAMILIES[family].model("eager")).geometry.feature_layer
    look: Look = lambda s: (s.vision().hidden_state(layer), s.vision().attention(layer - 1), s.vision().keys(layer - 1))  # noqa: E731
    options = {"states": (layer - 1, layer)}
    (both, *_), _ = probed(family, [TWO], look, **options)
    if family == "llava_onevision":  # it cuts the picture of a prompt into crops only where there is one
        parts, _ = probed(family, [TWO], look, within="image", **options)
        singles = parts[: len(parts) // 2]
    else:
        singles = [probed(family, [Prompt(text="Why?", images=[image])], look, **options)[0][0] for image in TWO.images]
    for value, *each in zip(both, *singles, strict=True):
        joined = value[0] if value.shape[0] == 1 else value.flatten(0, 1)
        assert torch.allclose(joined, torch.cat([part.flatten(0, 1) for part in each]), atol=1e-5)


@pytest.mark.parametrize("family", ["llava", "llava_next", "video_llava"])
def test_cls_states_belong_to_their_crops(family: str) -> None:
    model = FAMILIES[family].model("eager")
    adapter = adapter_for(model)
    layer = adapter.geometry.feature_layer
    caught: list[Tensor] = []
    handle = adapter.vision_layers("image")[layer].register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    with torch.no_grad():
        model(**FAMILIES[family].inputs([TWO]))
    handle.remove()
    look: Look = lambda s: s.vision().cls_state(layer)  # noqa: E731
    seen, _ = probed(family, [TWO], look, within="crop", states=(layer,))
    rows = torch.cat(seen[: len(seen) // 2 or 1])
    for row in rows:
        assert (caught[0][:, 0] - row).abs().amax(dim=1).min() < 1e-5
    assert len({tuple(row.tolist()) for row in rows}) == len(caught[0]), "one for each crop"


def test_a_methods_order_is_the_order_in_the_sequence() -> None:
    """Contiguous positions after a reordering at layer 0 equal a prompt that had that order from the start."""
    model, family = FAMILIES["llava"].model("eager"), FAMILIES["llava"]
    inputs = family.inputs([ONE])
    visual, _ = visual_and_words("llava", ONE)
    kept = (40, 3, 21, 60, 4)
    with (
        Fixed(stages=((0, kept),), positions="contiguous")(model, family.processor()) as run,
        torch.no_grad(),
    ):
        logits = model(**inputs).logits[0, -1]
        embedded = model.get_input_embeddings()(inputs["input_ids"][0]).clone()
    with torch.no_grad():
        embedded[visual] = model.model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        order = torch.cat([torch.arange(visual[0]), visual[list(kept)], torch.arange(visual[-1] + 1, len(embedded))])
        expected = model(inputs_embeds=embedded[order][None]).logits[0, -1]
    assert (logits - expected).abs().max() < 1e-4
    assert run.trace.samples[0].kept[0].tolist() == sorted(kept)


@dataclass(frozen=True, kw_only=True)
class Ragged(Fixed):
    """Keeps as many of the places given as the sample's number says: 2, 3, ..."""

    name: ClassVar[str] = "ragged"

    def select(self, state: State, keep: int) -> Selection:
        rows = len(state.tokens())
        index = torch.tensor(self.stages[0][1]).expand(rows, -1)
        return Selection(index, valid=torch.arange(index.shape[1]) < torch.arange(2, 2 + rows)[:, None])


def test_counts_may_differ_between_rows() -> None:
    model, family = FAMILIES["llava"].model("eager"), FAMILIES["llava"]
    inputs = family.inputs([ONE, Prompt(text=PROMPTS[1], images=[picture(50, 50, 9)])])
    places = (7, 20, 21, 50)
    with Ragged(stages=((2, places),))(model, family.processor()) as run, torch.no_grad():
        logits = model(**inputs).logits
    kept = [sample.kept[0] for sample in run.trace.samples]
    assert [k.tolist() for k in kept] == [[7, 20], [7, 20, 21]]
    assert [s.visual_leaving[-1] for s in run.trace.samples] == [2, 3]
    visual = inputs["input_ids"] == model.config.image_token_id
    expected = masked_logits(model, inputs, visual, {2: kept})
    assert (logits[:, -1] - expected[:, -1]).abs().max() < 1e-4


@dataclass(frozen=True, kw_only=True)
class Pairs(Method):
    """Merges each patch of an odd place into the one before it, after the first two ViT layers; what is left goes on
    backwards."""

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
    model = FAMILIES[family].model("sdpa")
    adapter, inputs = adapter_for(model), FAMILIES[family].inputs([ONE, ONE])
    layers: Any = adapter.vision_layers("image")
    entered: list[Tensor] = []
    method = Pairs(weighing=weighing)
    with torch.no_grad(), method(model, FAMILIES[family].processor()) as run:
        handles = [
            layer.register_forward_pre_hook(lambda m, args: entered.append(args[0]), prepend=True)
            for layer in (layers[0], model.model.language_model.layers[0])
        ]
        model(**inputs)
    for handle in handles:
        handle.remove()
    ours, sequence, groups, stays, last = method.seen[0]
    hidden, cls = entered[0][:1], int(adapter.geometry.cls)
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
        assert torch.allclose(entered[1][0, visual], projected, atol=1e-4)
        assert run.trace.samples[1].kept[0].tolist() == left.tolist()
        assert set(groups.tolist()) == {len(left)}
        assert order == left.flip(0).tolist()
    else:
        assert int(groups[0]) > len(left), "those of all crops"
        assert order == left.tolist(), "pictures of several crops keep their order"
