"""Each value that a method may ask for, against what the unpatched eager model computes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from cases import LLAVA, PROMPTS, Fixed, masked_forward, pruned, recorded
from families import FAMILIES, FRAMES, VIDEO_FAMILIES, Prompt, film, picture
from passes import encode
from PIL import Image
from probe import ONE, TWO, Probe, probed, visual_and_words
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.methods.base import Method
from clasp.methods.protocols import Crops, Queries, Selection, State

QUERIES: tuple[Queries, ...] = ("instruction", "last", "text", "visual", "prompt")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def seen_of(state: State, layer: int) -> dict[str, Any]:
    """Values of a layer; those of the stage's own layer by the state's methods, which take no layer."""
    decoder, own = state.decoder(layer), layer == state.layer
    some = torch.arange(state.visual_tokens)[None] % 3 == 0
    return {
        **{kind: (state if own else decoder).attention(kind) for kind in QUERIES},
        **{f"{kind} heads": decoder.attention_heads(kind) for kind in QUERIES},
        "some": decoder.attention(some),
        "text rows": decoder.attention_rows("text"),
        "instruction rows": state.text_attention() if own else decoder.attention_rows("instruction"),
        "hidden": state.tokens() if own else decoder.hidden(),
        "words": state.text()[0] if own else decoder.hidden("instruction"),
        **dict(zip(("entering tokens", "entering words"), state.embeddings(), strict=False)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_inputs_of_every_layer_that_has_passed(family: str) -> None:
    """At the second stage the first layers' values are those of the tokens that are left."""
    model, inputs = FAMILIES[family].model("eager"), FAMILIES[family].inputs([TWO])
    (visual, words), length = visual_and_words(family, TWO), inputs["input_ids"].shape[1]
    places: dict[Queries, Tensor] = {
        "instruction": words,
        "last": torch.tensor([length - 1]),
        "text": torch.arange(int(visual[-1]) + 1, length),
        "visual": visual,
        "prompt": torch.arange(length),
    }
    half = torch.arange(len(visual) // 2) * (len(visual) // (len(visual) // 2))
    kept = {1: [half], 3: [half[torch.arange(len(visual) // 4) * (len(half) // (len(visual) // 4))]]}
    maps = []  # of the unpatched model, where none, one or both of the probe's stages are done by masking
    for stages in range(3):
        with recorded(*adapter_for(model).layers) as calls:
            output = masked_forward(model, inputs, dict([*kept.items()][:stages]), output_attentions=True)
        maps.append(output.attentions)
    entered = [args[0][0] for args, _ in calls]

    def look(state: State) -> Any:
        return {layer: seen_of(state, layer) for layer in range(state.layer + 1)}

    first, second = probed(family, [TWO], look, layers=(0, 1, 2))
    assert (sorted(first), sorted(second)) == ([0, 1], [0, 1, 2, 3])
    for seen, left in ((first, visual), (second, visual[kept[1][0]])):
        for layer, values in seen.items():
            # the last layer is the stage's own, at which it looks before it drops
            stages = sum(cut < layer or cut == layer < max(seen) for cut in kept)
            heads = maps[stages][layer][0]
            gone = visual[~torch.isin(visual, left)]
            prompt = places["prompt"][~torch.isin(places["prompt"], gone)]
            asked = {**places, "visual": left, "prompt": prompt}
            paid = {kind: heads[:, asked[kind]][:, :, left] for kind in QUERIES}
            wanted = {
                **{kind: paid[kind].mean(dim=(0, 1)) for kind in QUERIES},
                **{f"{kind} heads": paid[kind].mean(dim=1) for kind in QUERIES},
                "some": heads[:, left[::3]][:, :, left].mean(dim=(0, 1)),
                "text rows": paid["text"].mean(dim=0),
                "instruction rows": paid["instruction"].mean(dim=0),
                "hidden": entered[layer][left],
                "words": entered[layer][words],
                # pruning does not change what entered
                "entering tokens": entered[0][visual],
                "entering words": entered[0][words],
            }
            assert set(wanted) == set(values)
            for name, value in wanted.items():
                assert torch.allclose(values[name][0], value, **CLOSE), (layer, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_keys_values_and_norms_of_keys(family: str) -> None:
    """Of the layer before the stage's own, which a lookback of one reads."""
    model = FAMILIES[family].model("eager")
    with torch.no_grad():
        output = model(**FAMILIES[family].inputs([TWO]), output_attentions=True, use_cache=True)
    visual, words = visual_and_words(family, TWO)

    def look(state: State) -> Any:
        decoder = state.decoder(0)
        turned = {kind: decoder.heads(kind) for kind in ("q", "k", "v")}
        plain = {kind: decoder.heads(kind, rotated=False) for kind in ("q", "k", "v")}
        shown = decoder.heads("v", "instruction"), decoder.rotary(), decoder.scaling()
        return turned, plain, *shown, state.key_norms(), state.attention("last")

    first, *_ = probed(family, [TWO], look, back=1)
    turned, plain, word_values, (cos, sin), scaling, norms, attention = first
    layer = output.past_key_values.layers[0]
    assert torch.allclose(turned["k"][0], layer.keys[0][:, visual], **CLOSE)
    assert torch.allclose(turned["v"][0], layer.values[0][:, visual], **CLOSE)
    assert torch.allclose(attention[0], output.attentions[0][0, :, -1, visual].mean(dim=0), **CLOSE)
    for ours, places in zip(norms, (visual, words), strict=True):
        assert torch.allclose(ours[0], layer.keys[0][:, places].abs().sum(dim=(0, 2)), **CLOSE)
    assert torch.equal(plain["v"], turned["v"])
    assert torch.allclose(word_values[0], layer.values[0][:, words], **CLOSE)
    for kind in ("q", "k"):
        half = plain[kind].shape[-1] // 2
        rotated = torch.cat([-plain[kind][..., half:], plain[kind][..., :half]], dim=-1)
        assert torch.allclose(plain[kind] * cos[:, None] + rotated * sin[:, None], turned[kind], **CLOSE)
    groups = turned["q"].shape[1] // turned["k"].shape[1]
    logits = turned["q"][0] @ turned["k"][0].repeat_interleave(groups, dim=0).transpose(-1, -2) * scaling
    maps = output.attentions[0][0][:, visual][:, :, visual]
    allowed = maps > 0  # a softmax over fewer keys is the map, renormalised
    expected = maps / maps.sum(dim=-1, keepdim=True)
    ours = logits.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
    assert torch.allclose(ours, expected, atol=1e-4)


def test_a_lookback_of_two_reads_that_layer() -> None:
    seen, *_ = probed("llava", [ONE], lambda s: s.attention("last"), back=2, cuts=(3,))
    visual, _ = visual_and_words("llava", ONE)
    with torch.no_grad():
        maps = LLAVA.model("eager")(**LLAVA.inputs([ONE]), output_attentions=True).attentions
    assert torch.allclose(seen[0], maps[1][0, :, -1, visual].mean(dim=0), **CLOSE)


@dataclass(frozen=True, kw_only=True)
class PerHead(Fixed):
    """Selects other tokens for each head."""

    name: ClassVar[str] = "per_head"

    def select(self, state: State, keep: int) -> Selection:
        return Selection(super().select(state, keep).index[:, None].expand(-1, 4, -1))


@pytest.mark.parametrize(
    ("method", "prompt", "words"),
    [
        (Probe(look=lambda s: s.decoder(0).hidden()), ONE, "layer 0 is not available before layer 1; .*decoder_states"),
        (Probe(look=lambda s: s.decoder(2).hidden()), ONE, "layer 2 is not available before layer 1; .*decoder_states"),
        (Probe(look=lambda s: s.attention("last"), back=2), ONE, "layer -1 is not available before layer 1"),
        (Probe(look=lambda s: None, layers=(5,)), ONE, "decoder layer 5.*use layers from 0 to the one before"),
        (
            Probe(look=lambda s: s.attention("words")),
            ONE,
            "unknown tokens 'words'; use one of instruction, last, text, visual, start, prompt",
        ),
        (Probe(look=lambda s: s.frames()), TWO, "set the method's scope to 'image'"),
        (PerHead(stages=((2, (0, 3)),)), ONE, r"'per_head' selects an index of shape \(1, 4, 2\); a budget per head"),
    ],
)
def test_what_a_stage_cannot_have_is_refused_by_name(method: Method, prompt: Prompt, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pruned("llava", method, LLAVA.inputs([prompt]), "eager")


def test_attention_of_many_queries_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(s: State) -> Any:
        return (s.decoder().attention("prompt"), s.decoder().attention_heads("visual"))

    whole = probed("llava", [ONE], look)
    monkeypatch.setattr("clasp.engine.decoder_rows.HELD", 1)
    parts = probed("llava", [ONE], look)
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_text_after_the_image_begins_behind_the_last_image(family: str) -> None:
    """It includes the template's closing and excludes text between two images, also in a padded batch."""

    def look(s: State) -> Any:
        return (s.text(), s.text_attention(), s.embeddings()[2])

    first, *_ = probed(family, [ONE, TWO], look, within="image", listen="after_image")
    ((words, real), attention, embedded), *_ = probed(family, [TWO], look, listen="after_image")
    counts = []
    for prompt in (ONE, TWO):
        visual, instruction = visual_and_words(family, prompt)
        counts.append(FAMILIES[family].inputs([prompt])["input_ids"].shape[1] - 1 - int(visual.max()))
        assert counts[-1] > len(instruction), "the template closes the user's turn"
    assert int(first[0][1].sum(dim=1)[0]) in counts
    assert real.sum() == embedded.sum() == counts[1]
    with torch.no_grad():
        output = FAMILIES[family].model("eager")(
            **FAMILIES[family].inputs([TWO]), output_attentions=True, output_hidden_states=True
        )
    assert torch.allclose(words[0], output.hidden_states[1][0, -counts[1] :], atol=1e-5)
    assert torch.allclose(attention[0], output.attentions[1][0].mean(dim=0)[-counts[1] :][:, visual], atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_padded_words_change_nothing_that_methods_see(family: str) -> None:
    def look(s: State) -> Any:
        return (s.text()[1], s.attention("instruction"), s.text_attention(), s.key_norms()[1])

    longer = Prompt(text="What is this, and where was it taken, do you think?", images=ONE.images)
    together = probed(family, [ONE, longer], look)[0]
    for row, prompt in enumerate((ONE, longer)):
        words, attention, by_word, _ = probed(family, [prompt], look)[0]
        count = int(words.sum())
        assert torch.allclose(together[1][row], attention[0], atol=1e-5)
        assert torch.allclose(together[2][row, :count], by_word[0], atol=1e-5)
        assert not together[2][row, count:].any()
        assert not together[3][row, count:].any()


# --- the vision tower ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_values_of_the_tower_are_shown_by_visual_token(family: str) -> None:
    """Of two pictures. Of several patches that make one token: the mean of values, and hidden states side by side."""
    inputs, adapter = FAMILIES[family].inputs([TWO]), adapter_for(FAMILIES[family].model("eager"))
    end = adapter.geometry.feature_layer
    layer, states = end - 1, (end - 1, end)
    arguments = {name: inputs[name] for name in inputs if name.startswith("pixel") or "image" in name}
    vision_pass = encode(adapter, "image", arguments, inputs["input_ids"])

    def look(state: State) -> Any:
        vision = state.vision()
        heads = [vision.heads(layer, kind).transpose(1, 2).flatten(2) for kind in ("q", "k", "v")]
        received = [vision.received(layer, others=others)[..., None] for others in (False, True)]
        attention = vision.attention_heads(layer).transpose(1, 2), vision.attention(layer)[..., None]
        return *heads, *received, *attention, vision.keys(layer), vision.hidden_state(end)

    seen, *_ = probed(family, [TWO], look, states=states)
    with torch.no_grad():
        values = [adapter.vision_heads(vision_pass, layer, kind) for kind in ("q", "k", "v")]
        values += [adapter.vision_received(vision_pass, layer, others) for others in (False, True)]
        values.append(adapter.vision_attention_heads(vision_pass, layer))
        values += [adapter.vision_attention(vision_pass, layer), adapter.vision_keys(vision_pass, layer)]
        arranged = [[adapter.arrange(vision_pass, item, value) for item in (0, 1)] for value in values]
        arranged.append([adapter.arrange(vision_pass, item, vision_pass.states[end], joined=True) for item in (0, 1)])
        for ours, both in zip(seen, arranged, strict=True):
            assert torch.allclose(ours[0], torch.cat(both), **CLOSE)
    if adapter.geometry.cls:

        def look(s: State) -> Any:
            return (s.layer, s.vision().cls_heads(layer, "v").flatten(1), s.vision().cls_state(end))

        rows = probed(family, [TWO], look, within="crop", states=states)
        _, *shown = zip(*(row for row in rows if row[0] == 1), strict=True)
        # where patches are joined, the CLS state stands for each patch of a square
        joined = seen[-1].shape[-1] // vision_pass.states[end].shape[-1]
        for ours, value in zip(shown, (values[2], vision_pass.states[end].repeat(1, 1, joined)), strict=True):
            distance = torch.cdist(torch.cat(ours), value[:, 0])
            assert distance.shape[0] == distance.shape[1], "one for each crop"
            assert max(distance.amin(dim=0).max(), distance.amin(dim=1).max()) < 1e-4


# --- places ----------------------------------------------------------------------------------------------------------


def grid_and_patches(s: State) -> Any:
    return s.grid(), s.vision().hidden_state(0)


def lit(side: int, at: tuple[float, float]) -> Image.Image:
    """A black square picture with a white spot around a point, given as shares of height and width."""
    picture, row, column = Image.new("RGB", (side, side)), int(at[0] * side), int(at[1] * side)
    picture.paste((255, 255, 255), (column - 1, row - 1, column + 2, row + 2))
    return picture


@pytest.mark.parametrize("at", [(0.15, 0.85), (0.65, 0.35)])
@pytest.mark.parametrize("family", FAMILIES)
def test_grid_positions_are_where_the_tokens_see(family: str, at: tuple[float, float]) -> None:
    """In every frame the token that a white spot changes most lies at the spot's row and column."""
    side = 96 if family.startswith("qwen") else 64
    (grid, dark), (_, bright) = (
        probed(family, [Prompt(text="Why?", images=[shown])], grid_and_patches, states=(0,))[0]
        for shown in (Image.new("RGB", (side, side)), lit(side, at))
    )
    change = (bright - dark)[0].norm(dim=-1)
    expected = {"llava_next": 2, "llava_onevision": 2, "internvl": 2 * 2 + 1, "smolvlm": 3 * 3 + 1}.get(family, 1)
    assert len(grid.sizes[0]) == expected
    assert int(grid.frame.max()) == expected - 1
    for frame, (rows, columns) in enumerate(grid.sizes[0]):
        if expected > 2 and frame + 1 < expected:  # a tile that may not show the spot (test_adapters.py)
            continue
        here = (grid.frame[0] == frame).nonzero().squeeze(1)
        assert len(here) == rows * columns
        most = here[change[here].argmax()]
        assert (int(grid.row[0, most]), int(grid.column[0, most])) == (int(at[0] * rows), int(at[1] * columns))
    nowhere = grid.frame[0] < 0
    assert int(nowhere.sum()) == (len(change) - sum(rows * columns for rows, columns in grid.sizes[0]))
    assert (grid.row[0] < 0).equal(nowhere)
    assert (change[nowhere] == 0).all(), "newlines see nothing"


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_frames_of_a_video_are_told_apart(family: str) -> None:
    count = FRAMES[family]
    pairs = 2 if family.startswith("qwen") else 1

    def prompt(bright: int | None) -> Prompt:
        frames = [Image.new("RGB", (48, 48), (255,) * 3 if i == bright else (0,) * 3) for i in range(count)]
        return Prompt(text="Why?", videos=[frames])

    (grid, dark), *_ = probed(family, [prompt(None)], grid_and_patches, states=(0,))
    assert len(grid.sizes[0]) == count // pairs
    for bright in (0, count - 1):
        (_, seen), *_ = probed(family, [prompt(bright)], grid_and_patches, states=(0,))
        changed = (seen - dark)[0].norm(dim=-1) > 1e-4
        frames = grid.frame[0][changed]
        assert set(frames[frames >= 0].tolist()) == {bright // pairs}
        assert (grid.frame[0] == bright // pairs).sum() == (changed & (grid.frame[0] >= 0)).sum()


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_every_frame_of_a_video_has_the_same_places(family: str) -> None:
    """A place is that of one row and column in every frame; CLS is the first one where it is a visual token, and what
    is of no frame, the newline behind a video, has none. A picture is one frame; places follow through the stages."""
    count = FRAMES[family]
    clip = Prompt(text="Why?", videos=[film(count, 48, 48)])

    def look(s: State) -> Any:
        return s.frames(), s.grid(), s.depth

    (frames, grid, depth), (left, *_) = probed(family, [clip], look, within="image")
    assert depth == len(adapter_for(FAMILIES[family].model()).layers)
    assert frames.count == (count // 2 if family.startswith("qwen") else count) == len(grid.sizes[0])
    frame, place = frames.frame[0], frames.place[0]
    inside = grid.frame[0] >= 0
    assert frame[inside].equal(grid.frame[0][inside])
    of_none = (frame < 0).nonzero().squeeze(1)
    assert of_none.tolist() == ([len(frame) - 1] if family == "llava_onevision" else [])
    assert (place < 0).equal(frame < 0)
    held = [place[frame == number].tolist() for number in range(frames.count)]
    assert held == [list(range(frames.size))] * frames.count
    rows, columns = grid.sizes[0][0]
    cls = int(family == "video_llava")
    assert frames.size == rows * columns + cls
    assert place[inside].equal(grid.row[0][inside] * columns + grid.column[0][inside] + cls)
    kept = torch.arange(left.frame.shape[1]) * 2
    assert left.frame[0].equal(frame[kept])
    assert left.place[0].equal(place[kept])
    assert (left.count, left.size) == (frames.count, frames.size)
    (shown, *_), *_ = probed(family, [ONE], look, within="image")
    assert (shown.count, shown.size) == (1, shown.place.shape[1])
    assert shown.place[0].tolist() == list(range(shown.size))
    assert not bool(shown.frame.any())


def test_videos_of_equally_many_tokens_in_other_frames_are_not_one_group() -> None:
    """On Qwen-VL a long video of small frames can have as many tokens as a short one of large ones."""
    prompts = [Prompt(text="Why?", videos=[clip]) for clip in (film(8, 24, 32), film(4, 32, 48))]
    seen = probed("qwen2_5_vl", prompts, lambda s: (s.frames().count, s.frames().size), within="image")
    assert sorted(seen[:2]) == [(2, 24), (4, 12)]


def test_places_within_a_crop_and_of_several_pictures() -> None:
    seen = probed("llava_next", [Prompt(text="Why?", images=[picture(64, 64)])], lambda s: s.grid(), within="crop")
    for grid in seen[: len(seen) // 2]:
        (rows, columns), *others = grid.sizes[0]
        assert not others
        assert (grid.row[0].min(), grid.column[0].min()) == (0, 0)
        places = grid.row[0] * columns + grid.column[0]
        assert sorted(places.tolist()) == list(range(rows * columns))
        assert grid.frame[0].unique().tolist() == [0]
    grid, *_ = probed("llava", [TWO], lambda s: s.grid())
    assert [len(frames) for frames in grid.sizes] == [2]
    assert (grid.frame[0].diff() >= 0).all()
    assert (grid.row[0][grid.frame[0] == 1] == grid.row[0][grid.frame[0] == 0]).all()


# --- crops, scratch, memory ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Splitting(Probe):
    """Records the values of the crops when the budget is split."""

    split: list[Any] = field(default_factory=list)

    def allocate(self, image: Crops, keep: int) -> list[int]:
        image.scratch["calls"] = image.scratch.get("calls", 0) + 1
        calls = image.scratch["calls"], image.video
        self.split.append((image.sizes, image.features(), image.attentions(0), image.text(), calls))
        return super().allocate(image, keep)


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "video_llava"])
def test_crops_show_what_enters_the_decoder(family: str) -> None:
    is_video = family != "llava_next"
    prompt = Prompt(text=PROMPTS[0], videos=[film(8, 48, 48)]) if is_video else ONE
    method = Splitting(look=lambda s: (s.embeddings(), s.vision().attention(0)), within="crop", states=(0,))
    pruned(family, method, FAMILIES[family].inputs([prompt]), "eager")
    (sizes, features, attentions, words, calls), second = method.split
    assert (calls, second[-1]) == ((1, is_video), (2, is_video))
    assert [len(part) for part in features] == list(sizes) == [len(part) for part in attentions]
    embeddings, _ = method.seen[0]
    assert torch.equal(words, embeddings[1][0])
    shown = [pair for embedded, paid in method.seen for pair in zip(embedded[0], paid, strict=True)]
    for feature, attention in zip(features, attentions, strict=True):
        assert any(torch.equal(feature, one) and torch.equal(attention, other) for one, other in shown)
    assert sum(second[0]) < sum(sizes), "the second split is over what the first left"
    assert [len(part) for part in second[1]] == list(second[0])


def test_scratch_lives_as_long_as_a_prefill() -> None:
    def look(state: State) -> list[Any]:
        before = [dict(noted) for noted in state.scratch]
        for noted, seed in zip(state.scratch, state.seeds(), strict=True):
            noted[state.layer] = seed
        return before

    probe = Probe(look=look)
    inputs = LLAVA.inputs([ONE, Prompt(text=PROMPTS[1], images=[picture(50, 50, 9)])])
    with LLAVA.pruned_by(probe), torch.no_grad():
        for _ in range(2):
            LLAVA.model()(**inputs)
    first, second, *again = probe.seen
    assert first == again[0] == [{}, {}]
    assert second == again[1]
    assert [list(noted) for noted in second] == [[1], [1]]
    assert second[0] != second[1], "each row has its own"


def test_inputs_of_earlier_layers_are_released_after_the_last_stage() -> None:
    """They stay in memory only until the last stage that reads them."""
    probe = Probe(look=lambda s: s.decoder(0).hidden(), layers=(0, 2))
    held: list[Sequence[int]] = []
    with LLAVA.pruned_by(probe) as run, ExitStack() as hooks, torch.no_grad():
        for index in (1, 3, 4):
            layer = LLAVA.model().model.language_model.layers[index]
            hooks.enter_context(
                layer.register_forward_pre_hook(lambda module, args: held.append(sorted(run._prefill.held)))
            )
        LLAVA.model()(**LLAVA.inputs([ONE]))
    assert held == [[0], [], []]
