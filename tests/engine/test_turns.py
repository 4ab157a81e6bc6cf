"""Conversations: further turns, chunks, candidates and crops on a pruned cache, and new images in later turns.

The expected values need no cache: the whole conversation is one full-length forward in which the same tokens are masked
from their stage on; where a mask cannot express what a method does, it is the engine's own prefill of the whole.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import pytest
import torch
from cases import GREEDY, LLAVA, METHODS, PROMPTS, Int8, masked_forward, placeholders, recorded
from families import FAMILIES, FRAMES, VIDEO_FAMILIES, Prompt, film, picture
from probe import Probe
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache

from clasp.backbones.base import UnsupportedError
from clasp.methods.base import Method
from clasp.methods.clasp.method import CLASP
from clasp.methods.none import Unpruned

NEW = 3
LOGITS: dict[str, Any] = {"max_new_tokens": NEW, **GREEDY}
ANSWER: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
CLOSE = 1e-4
CONVERSING = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")
"""Families whose processors treat a picture in a conversation as they treat it alone."""
DROPPING = ("divprune", "fastv-late", "clasp")
"""Stages before the decoder, at one layer, at several."""
ALONG = ("input_ids", "attention_mask", "mm_token_type_ids")
"""Inputs that run along the sequence."""


@dataclass(frozen=True)
class Conversation:
    """A conversation of two turns with one family: its prompts and its pictures."""

    family: str
    seed: int
    pictured: tuple[bool, bool] = (True, True)
    """Whether each turn brings a picture."""
    attention: str = "eager"

    @property
    def model(self) -> Any:
        return FAMILIES[self.family].model(self.attention)

    def pruned_by(self, method: Method) -> Any:
        return FAMILIES[self.family].pruned_by(method, self.attention)

    def prefilled(self) -> Any:
        """The cache of the first turn's prompt."""
        return self.model(**self.first, use_cache=True).past_key_values

    @cached_property
    def pictures(self) -> list[Any]:
        return [picture(48 + 27 * turn, 48 - 8 * turn, 10 * self.seed + turn) for turn in (0, 1)]

    def inputs(self, turns: int, since: int = 0) -> Any:
        """The processor's output for the conversation up to the question of that turn, or from one turn on."""
        messages: list[dict[str, Any]] = []
        for turn in range(since, turns):
            content = [{"type": "image"}] * self.pictured[turn]
            words = {"type": "text", "text": PROMPTS[(self.seed + turn) % 3]}
            messages += [
                {"role": "user", "content": [*content, words]},
                {"role": "assistant", "content": [{"type": "text", "text": "red, I think"}]},
            ]
        processor = FAMILIES[self.family].processor()
        text = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        shown = [self.pictures[turn] for turn in range(since, turns) if self.pictured[turn]]
        return processor(text=[text], images=[shown] if shown else None, return_tensors="pt")

    @cached_property
    def first(self) -> Any:
        return self.inputs(1)

    @cached_property
    def whole(self) -> Any:
        return self.inputs(2)

    @property
    def since(self) -> Tensor:
        """(1, tokens) what the second turn adds."""
        return self.whole["input_ids"][:, self.first["input_ids"].shape[1] :]

    def media(self, inputs: Any) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name not in ALONG}

    @property
    def later(self) -> dict[str, Any]:
        """The second turn's own picture."""
        return self.media(self.inputs(2, since=1)) if self.pictured[1] else {}

    def visual(self, ids: Tensor) -> Tensor:
        return placeholders(self.model, ids)

    def masked(self, run: Any, kept: list[list[Tensor]], more: Tensor | None = None) -> Tensor:
        """Logits of the whole conversation with what each turn dropped masked.

        Args:
            kept: of each turn with a picture, by stage, places among that turn's visual tokens.
            more: (1, tokens) text behind it.
        """
        inputs = dict(self.whole)
        if more is not None:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if "mm_token_type_ids" in inputs:
                none = torch.zeros_like(more, dtype=inputs["mm_token_type_ids"].dtype)
                inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], none], dim=1)
        visual = self.visual(inputs["input_ids"])
        visual[:, self.whole["input_ids"].shape[1] :] = False
        border = self.first["input_ids"].shape[1]
        offsets = [0, int(visual[:, :border].sum())]
        starts = [offset for offset, shows in zip(offsets, self.pictured, strict=True) if shows]
        stages = {
            stage.cut: [torch.cat([turn[i] + start for turn, start in zip(kept, starts, strict=True)])]
            for i, stage in enumerate(run.schedule.stages)
        }
        return masked_forward(self.model, inputs, stages, visual).logits[0]


def by_places(name: str) -> Method:
    """A method that does nothing but drop tokens, so that masking the dropped ones must give the same."""
    method = dataclasses.replace(METHODS[name], positions="original")
    return dataclasses.replace(method, fusion="deep") if isinstance(method, CLASP) else method


@lru_cache
def conversation(
    family: str, seed: int = 0, pictured: tuple[bool, bool] = (True, True), attention: str = "eager"
) -> Conversation:
    return Conversation(family, seed, pictured, attention)


def kept_of(run: Any, row: int = 0) -> list[Tensor]:
    return list(run.trace.samples[row].kept)


# --- turns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"), [("divprune", "new"), ("fastv-late", "all"), ("clasp", "new"), ("clasp", "all")]
)
@pytest.mark.parametrize("family", CONVERSING)
def test_a_new_picture_is_pruned_in_its_turn(family: str, name: str, shown: str) -> None:
    """Given alone or with all pictures of the conversation; then generated tokens and one more question follow."""
    on = conversation(family)
    media = on.later if shown == "new" else on.media(on.whole)
    with on.pruned_by(by_places(name)) as run, torch.no_grad():
        cache = on.prefilled()
        kept = [kept_of(run)]
        held = [layer.get_seq_length() for layer in cache.layers]
        seen = on.model(input_ids=on.since, past_key_values=cache, **media).logits[0]
        kept.append(kept_of(run))
        more = on.since[:, -4:]
        parts = [on.model(input_ids=part, past_key_values=cache).logits[0] for part in more.split((1, 2, 1), dim=1)]
    expected = on.masked(run, kept, more)
    text = ~on.visual(on.since[0])
    start, end = on.first["input_ids"].shape[1], on.whole["input_ids"].shape[1]
    assert (seen[text] - expected[start:end][text]).abs().max() < CLOSE
    assert (torch.cat(parts) - expected[end:]).abs().max() < CLOSE
    assert cache.get_seq_length() == end + 4
    sample, new = run.trace.samples[0], int(on.visual(on.since).sum())
    grown = [layer.get_seq_length() - before for layer, before in zip(cache.layers, held, strict=True)]
    assert grown == [on.since.shape[1] - new + sample.visual_entering[layer] + 4 for layer in range(len(grown))]
    assert min(sample.visual_leaving) < new, "the second picture must be pruned"
    free = on.masked(run, [kept[0], [torch.arange(new)] * len(kept[1])], more)
    assert (free[end:] - expected[end:]).abs().max() > 1e-3, "that must matter"


@pytest.mark.parametrize("name", DROPPING)
@pytest.mark.parametrize("family", CONVERSING)
def test_generate_goes_on_with_conversations_that_take_turns(family: str, name: str) -> None:
    """As a user does: the processor's output for all of it, and the cache of the turn before.

    Qwen-VL keeps the offset of the latest prompt's positions; each pruned cache must have its own.
    """
    pictured = ((True, True), (True, False), (False, True))
    conversations = [conversation(family, seed, turns) for seed, turns in enumerate(pictured)]
    model, caches, kept, outputs = conversations[0].model, list[Any](), list[Any](), list[Any]()
    with conversations[0].pruned_by(by_places(name)) as run, torch.no_grad():
        for on in conversations:
            # fewer tokens are generated here than the recorded answer of the conversation has
            caches.append(model.generate(**on.first, **LOGITS | {"max_new_tokens": 1}).past_key_values)
            kept.append([kept_of(run)] if on.pictured[0] else [])
        for on, cache, stages in zip(conversations, caches, kept, strict=True):
            outputs.append(model.generate(**on.whole, past_key_values=cache, **LOGITS))
            stages += [kept_of(run)] if on.pictured[1] else []
    for on, stages, output in zip(conversations, kept, outputs, strict=True):
        end = on.whole["input_ids"].shape[1]
        expected = on.masked(run, stages, output.sequences[:, end:])
        for step, logits in enumerate(output.logits):
            assert (logits[0] - expected[end - 1 + step]).abs().max() < CLOSE, (on, step)


@pytest.mark.parametrize("name", ["divprune", "clasp"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_turns_of_a_batch_equal_those_of_each_conversation(family: str, name: str) -> None:
    """One brings a picture in each turn, the other in its first turn alone; both turns are padded on the left."""
    conversations = [conversation(family), conversation(family, 1, (True, False))]
    on = conversations[0]

    def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Token ids and mask."""
        ids, mask = [row[0] for row in rows], [torch.ones_like(row[0]) for row in rows]
        return pad_sequence(ids, True, padding_side="left"), pad_sequence(mask, True, padding_side="left")

    with on.pruned_by(by_places(name)) as run, torch.no_grad():
        ids, mask = padded([one.first["input_ids"] for one in conversations])
        media_names = on.media(on.first)
        media = {key: torch.cat([one.media(one.first)[key] for one in conversations]) for key in media_names}
        if "mm_token_type_ids" in on.first:
            media["mm_token_type_ids"] = (ids == on.model.config.image_token_id).long()
        seen = mask.cumsum(dim=1)
        if family == "llava":
            media["position_ids"] = (seen - 1).clamp(min=0)
        cache = on.model(input_ids=ids, attention_mask=mask, use_cache=True, **media).past_key_values
        kept = [[kept_of(run, row)] for row in (0, 1)]
        later, later_mask = padded([one.since for one in conversations])
        everything = {key: torch.cat([one.media(one.whole)[key] for one in conversations]) for key in media_names}
        mask = torch.cat([mask, later_mask], dim=1)
        logits = on.model(input_ids=later, attention_mask=mask, past_key_values=cache, **everything).logits
        kept[0].append(kept_of(run, 0))
        following = later[:, -1:]
        mask = torch.cat([mask, torch.ones_like(following)], dim=1)
        step = on.model(input_ids=following, attention_mask=mask, past_key_values=cache).logits
    for row, one in enumerate(conversations):
        expected = one.masked(run, kept[row], following[row : row + 1])
        length = one.since.shape[1]
        text = ~one.visual(one.since[0])
        assert (logits[row, -length:][text] - expected[-length - 1 : -1][text]).abs().max() < CLOSE, row
        assert (step[row, 0] - expected[-1]).abs().max() < CLOSE, row


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_two_turns_equal_the_whole_at_once(family: str, positions: Any) -> None:
    """For methods that rank each picture by itself; some change features, and contiguous positions are counted anew."""
    on = conversation(family, attention="sdpa")
    border = on.first["input_ids"].shape[1]
    for name in ("random", "random_inside", "visionzip", "prunesid"):
        method = dataclasses.replace(METHODS[name], positions=positions)
        with on.pruned_by(method), torch.no_grad():
            expected = on.model(**on.whole).logits[0, border:]
            cache = on.prefilled()
            logits = on.model(input_ids=on.since, past_key_values=cache, **on.later).logits[0]
        text = ~on.visual(on.since[0])
        assert (logits[text] - expected[text]).abs().max() < CLOSE, name


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_video_may_be_prefilled_in_a_later_chunk_than_a_picture(family: str) -> None:
    small = FAMILIES[family]
    model, video = small.model(), film(FRAMES[family], 48, 48, 3)
    inputs = small.inputs([Prompt(text=PROMPTS[0], images=[picture(48, 48)], videos=[video])])
    ids = inputs["input_ids"]
    border = int((ids[0] == model.config.image_token_id).nonzero().max()) + 1
    images, videos = {}, {}
    for key in [key for key in inputs if key not in ALONG]:
        (videos if "video" in key or "second" in key else images)[key] = inputs[key]
    if "mm_token_type_ids" in inputs:
        images["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, :border]
    for name in ("random", "random_inside"):
        with small.pruned_by(METHODS[name]), torch.no_grad():
            expected = model(**inputs).logits[0, -1]
            cache = model(input_ids=ids[:, :border], use_cache=True, **images).past_key_values
            logits = model(input_ids=ids[:, border:], past_key_values=cache, **videos).logits[0, -1]
        assert (logits - expected).abs().max() < CLOSE, name


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_attention_in_a_later_turn_is_over_the_whole_conversation(family: str) -> None:
    on = conversation(family)

    probe = Probe(look=lambda s: (s.decoder().attention("last"), s.decoder().attention_heads("text")), back=1)
    with on.pruned_by(probe) as run, torch.no_grad():
        cache = on.prefilled()
        earlier = kept_of(run)
        probe.seen.clear()
        on.model(input_ids=on.since, past_key_values=cache, **on.later)
    later = kept_of(run)
    places = on.visual(on.whole["input_ids"])[0].nonzero().squeeze(1)
    first = int(on.visual(on.first["input_ids"]).sum())
    behind = torch.arange(int(places[-1]) + 1, on.whole["input_ids"].shape[1])
    # the first stage looks at a layer before any cut, the second at one behind the first cut
    cuts = [stage.cut for stage in run.schedule.stages]
    for number, (last, text) in enumerate(probe.seen):
        before = {cuts[i]: [torch.cat([earlier[i], later[i] + first])] for i in range(number)}
        output = masked_forward(on.model, on.whole, before, output_attentions=True)
        maps = output.attentions[cuts[number] - 1][0]
        left = places[first:] if number == 0 else places[first:][later[number - 1]]
        assert torch.allclose(last[0], maps[:, -1, left].mean(dim=0), atol=CLOSE)
        assert torch.allclose(text[0], maps[:, behind][:, :, left].mean(dim=1), atol=CLOSE)
    assert len(probe.seen) == len(cuts)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_picture_behind_a_prefix_of_another_context_is_pruned(family: str) -> None:
    """Such as a system prompt that many prompts share."""
    on = conversation(family)
    prefix = 3
    with torch.no_grad():
        cache = on.model(input_ids=on.first["input_ids"][:, :prefix], use_cache=True).past_key_values
        shared = copy.deepcopy(cache)
    with on.pruned_by(by_places("fastv-late")) as run, torch.no_grad():
        expected = on.model.generate(**on.first, **ANSWER)
        at_once = kept_of(run)
        output = on.model.generate(**on.first, past_key_values=cache, **ANSWER)
        assert [one.tolist() for one in kept_of(run)] == [one.tolist() for one in at_once]
        assert torch.equal(output, expected)
        rest = on.first["input_ids"][:, prefix:]
        if family == "llava":
            logits = on.model(input_ids=rest, past_key_values=shared, **on.media(on.first)).logits
            assert int(logits[0, -1].argmax()) == int(expected[0, on.first["input_ids"].shape[1]])
        else:
            with pytest.raises(UnsupportedError, match=r"filled without one cannot be derived; pass position_ids"):
                on.model(input_ids=rest, past_key_values=shared, **on.media(on.first))


# --- several tokens, candidates, crops -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DROPPING, "visionzip"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_assisted_and_prompt_lookup_decoding_give_the_greedy_answer(family: str, name: str) -> None:
    on = conversation(family, attention="sdpa")
    helper = copy.deepcopy(on.model)  # unpruned, so that some of its candidates are right and some are not
    method, options = METHODS[name], {"max_new_tokens": 8, "do_sample": False}
    with on.pruned_by(method) as run, torch.no_grad():
        expected = on.model.generate(**on.first, **options)
        kept = [one.tolist() for one in kept_of(run)]
        for how in ({"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}, {"assistant_model": helper}):
            with recorded(on.model.model) as calls:
                output = on.model.generate(**on.first, **options, **how)
            assert torch.equal(output, expected), how
            assert [one.tolist() for one in kept_of(run)] == kept, "candidates have no part in what is pruned"
            prompt, *offered = [kwargs["input_ids"].shape[1] for _, kwargs in calls]
            assert prompt == on.first["input_ids"].shape[1]
            if "assistant_model" in how:
                assert max(offered) > 1, "several tokens at once"
        with pytest.raises(UnsupportedError, match=r"assistant_early_exit=2 .*; use prompt_lookup_num_tokens"):
            on.model.generate(**on.first, **options, assistant_early_exit=2)
    assert "_get_candidate_generator" not in vars(on.model)


@pytest.mark.parametrize("name", [*DROPPING, "visionzip", "pact", "ivcprune"])
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_another_question_on_the_same_picture(family: str, name: str) -> None:
    """After cropping the cache to the text behind the picture, the answer is that without the first question."""
    on = conversation(family, attention="sdpa")
    question = on.since[:, -6:]
    with on.pruned_by(METHODS[name]), torch.no_grad():
        cache = on.prefilled()
        spare = copy.deepcopy(cache)
        at_once = on.model(input_ids=question, past_key_values=cache).logits
        cache.crop(-6)
        again = [on.model(input_ids=part, past_key_values=cache).logits for part in question.split(2, dim=1)]
        assert (torch.cat(again, dim=1) - at_once).abs().max() < CLOSE
        # the prompt's own last tokens once more; where the cache of earlier layers was cut, they see less than before
        spare.crop(-2)
        tail = on.first["input_ids"][:, -2:]
        repeated = on.model(input_ids=torch.cat([tail, question], dim=1), past_key_values=spare).logits
        assert ((repeated[:, 2:] - at_once).abs().max() < CLOSE) != METHODS[name].cuts_passed
        spare.crop(-(on.first["input_ids"].shape[1] // 2))
        with pytest.raises(UnsupportedError, match=r"crop no further than the text behind the last image"):
            on.model(input_ids=question, past_key_values=spare)


@pytest.mark.parametrize("method", [Unpruned(), METHODS["random"]])
def test_a_generated_placeholder_is_text(method: Method) -> None:
    model = LLAVA.model()
    inputs = LLAVA.inputs([Prompt(text=PROMPTS[0], images=[picture(48, 48, 0)]), Prompt(text=PROMPTS[2])])
    fresh = torch.full((2, 1), model.config.image_token_id)
    seen = inputs["attention_mask"].cumsum(dim=1)
    with LLAVA.pruned_by(method), torch.no_grad():
        cache = model(**inputs, position_ids=(seen - 1).clamp(min=0), use_cache=True).past_key_values
        grown = torch.cat([inputs["attention_mask"], torch.ones_like(fresh)], dim=1)
        step = model(input_ids=fresh, attention_mask=grown, position_ids=seen[:, -1:], past_key_values=cache)
    assert step.logits.isfinite().all()


def test_generate_prefills_text_in_chunks_and_refuses_to_cut_a_picture() -> None:
    for family in ("llava", "qwen2_5_vl"):
        on = conversation(family, 1, (True, False), "sdpa")
        with on.pruned_by(METHODS["clasp"]), torch.no_grad():
            cache = on.model.generate(**on.first, **LOGITS | {"max_new_tokens": 1}).past_key_values
            spare = copy.deepcopy(cache)
            along = {name: on.whole[name] for name in ("input_ids", "attention_mask")}
            expected = on.model.generate(**along, past_key_values=cache, **ANSWER)
            output = on.model.generate(**along, past_key_values=spare, prefill_chunk_size=4, **ANSWER)
            assert torch.equal(output, expected)
            with pytest.raises(UnsupportedError, match=r"cut by prefill_chunk_size.*leave prefill_chunk_size out"):
                on.model.generate(**on.first, past_key_values=DynamicCache(), prefill_chunk_size=16, **ANSWER)


@pytest.mark.parametrize("name", [*DROPPING, "pact", "ivcprune"])
def test_a_caches_rows_may_be_repeated_selected_and_reordered(name: str) -> None:
    inputs = LLAVA.inputs([Prompt(text=PROMPTS[row], images=[picture(48, 48, row)]) for row in (0, 1)])
    model, token = LLAVA.model(), torch.tensor([[5], [9]])
    with LLAVA.pruned_by(METHODS[name]), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        expected = model(input_ids=token, past_key_values=copy.deepcopy(cache)).logits
        for index in ([1, 0], [1, 1, 0], [0]):
            for change in ("reorder_cache", "batch_select_indices"):
                chosen = copy.deepcopy(cache)
                getattr(chosen, change)(torch.tensor(index))
                logits = model(input_ids=token[index], past_key_values=chosen).logits
                assert (logits - expected[index]).abs().max() < 1e-5, (change, index)
        cache.batch_repeat_interleave(2)
        with pytest.raises(UnsupportedError, match="the batch changed from 4 to 2 rows on a pruned cache"):
            model(input_ids=token, past_key_values=cache)
        logits = model(input_ids=token.repeat_interleave(2, dim=0), past_key_values=cache).logits
        assert (logits - expected.repeat_interleave(2, dim=0)).abs().max() < 1e-5


def test_a_picture_cut_into_other_tiles_in_a_conversation_is_refused() -> None:
    """LLaVA-OneVision cuts the only picture of a prompt into tiles, but not the pictures of two turns together."""
    on = conversation("llava_onevision")
    with on.pruned_by(METHODS["divprune"]), torch.no_grad():
        cache = on.prefilled()
        alone = on.inputs(2, since=1)
        spare = copy.deepcopy(cache)
        logits = on.model(input_ids=alone["input_ids"], past_key_values=spare, **on.media(alone)).logits
        assert logits.isfinite().all()
        places = on.visual(on.whole["input_ids"][0]).nonzero().squeeze(1)
        later = on.whole["input_ids"][:, int(places[len(places) // 2]) :]
        with pytest.raises(UnsupportedError, match=r"earlier turns had \d+ visual tokens and have others now"):
            on.model(input_ids=later, past_key_values=cache, **on.media(on.whole))


def test_continuations_that_cannot_work_are_refused_by_name() -> None:
    on = conversation("llava")
    wider = on.media(on.whole)
    wider["pixel_values"] = torch.cat([wider["pixel_values"][:1], wider["pixel_values"]])
    with on.pruned_by(METHODS["fastv-late"]), torch.no_grad():
        cache = on.prefilled()
        for ids, arguments, words in (
            (on.since[:, :5], {"attention_mask": torch.ones(1, 5)}, r"does not fit a cache of \d+ tokens and 5"),
            (on.since[:, :2], {"position_ids": torch.tensor([[1, 2]])}, r"position_ids.*pad on the left"),
            (None, {"inputs_embeds": torch.zeros(1, 2, 64)}, "pass input_ids, not inputs_embeds"),
            (on.since[:, -4:], on.media(on.whole), "1 of 2 encoded images have no placeholder in what follows"),
            (on.since, wider, "1 of 3 encoded images have no placeholder"),
        ):
            with pytest.raises(UnsupportedError, match=words):
                on.model(input_ids=ids, past_key_values=cache, **arguments)
        layers = [Int8() for _ in on.model.model.language_model.layers]
        quantised = on.model(**on.first, past_key_values=Cache(layers=layers), use_cache=True).past_key_values
        with pytest.raises(UnsupportedError, match=r"'fastv' looks at attention.*Int8 keeps no keys"):
            on.model(input_ids=on.since, past_key_values=quantised, **on.later)
