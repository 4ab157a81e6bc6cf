"""Packing, the token choice and the training loop: what is learnt is what inference does, and a stop loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from clasp.fingerprint import folder_fingerprint
from clasp.tiny import directory
from clasp.tiny.training import STAGES, shipping
from clasp.tiny.training import course as course_module
from clasp.tiny.training.answering import choose_places, choose_tokens
from clasp.tiny.training.attention import products_attention, use_own
from clasp.tiny.training.course import Course, Phase, Recipe
from clasp.tiny.training.deepening import deepen
from clasp.tiny.training.features import Gallery
from clasp.tiny.training.gathering import class_attention, gathering_loss
from clasp.tiny.training.images import IGNORE, image_batch, pixels_and_labels
from clasp.tiny.training.loop import Plan
from clasp.tiny.training.model import TRAINED, VISUAL_TOKENS, build_clip, build_tokenizer, export, prompt
from clasp.tiny.training.packing import attention_bias
from clasp.tiny.training.shipping import ship
from clasp.tiny.training.withdrawing import decode

pytestmark = pytest.mark.xdist_group("training")  # one tokenizer and one course for all
PLAN = Plan(steps=2, rate=1e-3, warmup=1, decay=1, every=100)
SIZES = dict.fromkeys(("see_batch", "see_layers", "refine_batch", "read_batch", "gather_batch", "easy"), 2)
SIZES |= {"shallow": 1, "read_tokens": 64, "scenes": 6, "world": 4, "fresh": 1}
RECIPE = Recipe(
    **dict.fromkeys(STAGES, PLAN),
    **SIZES,
    answer_phases=(Phase(1, 32, 2, 64), Phase(0, 48, 2, 64)),  # another way after the step at which runs are broken
    deepen_phases=(Phase(0, 32, 1, 64),),
    withdraw_phase=Phase(0, 32, 1, 64),
)


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """Building it is most of what a course takes; no course changes it."""
    tokenizer = build_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_module, "build_tokenizer", lambda: tokenizer)
        yield


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return Course(tmp_path_factory.mktemp("course"), RECIPE)


def test_products_attention_is_attention() -> None:
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~torch.ones(9, 9).tril().bool(), torch.finfo().min)
    got, _ = products_attention(torch.nn.Identity(), query, key, value, mask)
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(got, wanted.transpose(1, 2))


def test_packed_questions_equal_single_ones(course: Course) -> None:
    """Logits of each question in a packed row are those of the question alone in a plain forward pass."""
    packer, decoder = course.packer, course.model.model.language_model
    use_own(decoder)
    asked = [("tiny_gqa", "what animal is it?", "cat"), ("tiny_vqav2", "what place is this?", "beach")]
    rows = packer.pack([asked], 40)
    visual = torch.randn(1, VISUAL_TOKENS, 128, generator=torch.Generator().manual_seed(0))
    words = decoder.embed_tokens
    pieces = [words(torch.tensor([packer.before])), visual, words(torch.tensor([packer.after])), words(rows.tokens)]
    prefix = len(packer.before) + VISUAL_TOKENS + len(packer.after)
    positions = torch.cat([torch.arange(prefix)[None], rows.positions + prefix], dim=1)
    bias = attention_bias(prefix, rows.segments, torch.float32)
    with torch.no_grad():
        whole = {"attention_mask": bias, "position_ids": positions, "use_cache": False}
        packed = decoder(inputs_embeds=torch.cat(pieces, 1), **whole).last_hidden_state
        for number, (_, question, answer) in enumerate(asked, start=1):
            ids = torch.tensor(course.tokenizer(prompt(question))["input_ids"])
            start = int((ids == course.model.config.image_token_id).nonzero()[0])
            expanded = torch.cat([words(ids[:start]), visual[0], words(ids[start + 1 :])])[None]
            alone = decoder(inputs_embeds=expanded, use_cache=False).last_hidden_state[0, -1]
            place = int(((rows.segments[0] == number) & (rows.targets[0] != IGNORE)).nonzero()[0])
            torch.testing.assert_close(packed[0, prefix + place], alone, atol=1e-4, rtol=1e-4)
            assert course.tokenizer.decode(rows.targets[0, place]).strip() == answer


def test_only_answers_are_targets(course: Course) -> None:
    rows = course.packer.pack([[("tiny_gqa", "what animal is it?", "cat")], []], 24)
    said = rows.targets[0][rows.targets[0] != IGNORE].tolist()
    assert said == [*course.tokenizer(" cat", add_special_tokens=False)["input_ids"], course.tokenizer.eos_token_id]
    assert (rows.targets[1] == IGNORE).all()


def test_objects_are_kept_first() -> None:
    labels = torch.from_numpy(np.stack([pixels_and_labels(n)[1] for n in range(4)]))
    objects = labels[:, 0] > 0
    kept = choose_tokens(objects, 200, seed=3)
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(objects.gather(1, kept).sum(1), objects.sum(1).clamp(max=200))
    assert torch.equal(choose_tokens(objects, VISUAL_TOKENS, 0)[0], torch.arange(VISUAL_TOKENS))


def test_places_keep_order_gaps_and_ends() -> None:
    """Own places end where the image ends; all others end behind their last token, and every way occurs."""
    kept = torch.stack([torch.arange(3, 99, 2)] * 64)
    orders, places, ends = choose_places(kept, seed=5)
    own = (places == kept).all(1)
    assert 0.3 < own.float().mean() < 0.7
    assert (ends[own] == VISUAL_TOKENS).all()
    assert (ends[~own, 0] == places[~own, -1] + 1).all()
    assert (places.diff(dim=1) > 0).all()
    assert torch.equal(orders.sort(dim=1).values, torch.arange(kept.shape[1]).expand(64, -1))
    assert (orders.diff(dim=1) < 0).any(1).sum() in range(1, 20)


def test_a_deepened_model_computes_what_the_shallow_one_does(course: Course) -> None:
    deepen(course.model, course.deep, "model.language_model.layers")
    use_own(*(model.model.language_model for model in (course.model, course.deep)))
    use_own(*(clip.vision_model for clip in (course.small_clip, course.clip)))
    ids = torch.arange(300, 320)[None]
    shallow, deep = (model.model.language_model(input_ids=ids) for model in (course.model, course.deep))
    assert torch.equal(shallow.last_hidden_state, deep.last_hidden_state)
    deepen(course.small_clip, course.clip, "vision_model.encoder.layers")
    pixels = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    shallow, deep = (clip.vision_model(pixels) for clip in (course.small_clip, course.clip))
    assert torch.equal(shallow.last_hidden_state, deep.last_hidden_state)


def test_bad_arguments_are_named(course: Course) -> None:
    with pytest.raises(ValueError, match="32 layers cannot be deepened evenly to 1"):
        deepen(course.deep, course.model, "model.language_model.layers")
    with pytest.raises(ValueError, match=r"'sleep'.*see, refine, read, align, answer, deepen, gather, withdraw"):
        course.trainer("sleep")


def test_class_attention_is_the_towers_own_and_teaches_no_patch(course: Course) -> None:
    tower = course.clip.vision_model
    pixels = torch.randn(1, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    tower.config._attn_implementation = "eager"
    own = tower(pixels, output_attentions=True, output_hidden_states=True)
    use_own(tower)
    hidden = own.hidden_states[8].detach().requires_grad_()
    attention = class_attention(tower.encoder.layers[8], hidden)
    torch.testing.assert_close(attention, own.attentions[8][:, :, 0, 1:].mean(1))
    attention.square().sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[:, 0].any()
    assert not hidden.grad[:, 1:].any()


def test_gathering_turns_the_class_token_to_all_that_is_shown_and_holds_patches(course: Course) -> None:
    """Twenty steps on one batch: what is shown gets more of the attention, letters too, and patches stay."""
    clip = build_clip(course.tokenizer)
    before = build_clip(course.tokenizer).vision_model.requires_grad_(False)
    use_own(clip.vision_model, before)
    batch = image_batch([0, 0, 0], 2)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    log = []
    for _ in range(20):
        loss, numbers = gathering_loss(clip, before, course.tokenizer, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        log.append(numbers | {"loss": loss.item()})
    assert log[0]["moved"] == 0.0
    assert log[-1]["moved"] < 0.1
    assert log[-1]["on"] > log[0]["on"] + 0.2
    assert log[-1]["letters"] >= log[0]["letters"]
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("withdrawn", [0, 5, 32])
def test_a_decoder_without_its_visual_tokens_is_one_whose_other_tokens_do_not_see_them(
    course: Course, withdrawn: int
) -> None:
    decoder, visual = course.deep.model.language_model, slice(2, 7)
    embeds = torch.randn(2, 12, 128, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(12).expand(2, -1) + torch.tensor([[0], [3]])
    bias = attention_bias(8, torch.ones(2, 4, dtype=torch.long), torch.float32)
    blind = bias.clone()
    blind[..., visual] = torch.finfo(torch.float32).min
    blind.diagonal(dim1=-2, dim2=-1).zero_()  # a visual token still sees itself; nothing is read from it

    def hide(_: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        return arguments, named | {"attention_mask": blind}

    with torch.no_grad():
        got = decode(decoder, embeds, bias, positions, visual, withdrawn)
        hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in decoder.layers[withdrawn:]]
        whole = decoder(inputs_embeds=embeds, attention_mask=bias, position_ids=positions, use_cache=False)
    for hook in hooks:
        hook.remove()
    expected = torch.cat([whole.last_hidden_state[:, :2], whole.last_hidden_state[:, 7:]], dim=1)
    assert torch.allclose(got, expected, atol=1e-5)


def test_withdraw_keeps_every_fourth_batch_whole(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(course, "_loss", lambda *arguments: drawn.append(arguments[-1]))
    for step in range(24):
        course._answer("withdraw", step)
    assert all((layers == 32) == (step % 4 == 0) for step, layers in enumerate(drawn))
    first, last = course.recipe.withdraw_layers
    inside = {layers for layers in drawn if layers != 32}
    assert len(inside) > 3
    assert first <= min(inside) <= max(inside) <= last


def test_rates_rise_hold_and_fall() -> None:
    plan = Plan(steps=100, rate=1.0, warmup=10, decay=20)
    rates = [plan.rate_at(step) for step in range(100)]
    assert [rates[0], rates[50], rates[99]] == pytest.approx([0.1, 1.0, 0.05])
    assert [replace(plan, steps=200).rate_at(step) for step in range(80)] == rates[:80]


def _weights(course: Course) -> dict[str, torch.Tensor]:
    parts = {"small": course.small_clip, "clip": course.clip, "shallow": course.model, "deep": course.deep}
    return {f"{part}.{name}": value for part, model in parts.items() for name, value in model.state_dict().items()}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads add up in an order of their own; bit-equality is a promise for one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class QuickMuon(torch.optim.Muon):
    """Muon with one step of Newton-Schulz in place of five: the same state to resume, at a fraction of the time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, ns_steps=1)


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: a CPU without instructions for bfloat16 takes a fraction of the time."""
    kept = Gallery.features
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(Gallery, "features", lambda *arguments: kept(*arguments).float())
    monkeypatch.setattr(torch.optim, "Muon", QuickMuon)
    whole = Course(tmp_path / "whole", RECIPE)
    before = {name: value.clone() for name, value in _weights(whole).items()}
    for stage in STAGES:
        assert whole.run(stage).step == PLAN.steps
    for stage in STAGES:  # each stage: stopped after one step, taken up by a new process's course
        first = Course(tmp_path / "broken", RECIPE)
        for done in STAGES[: STAGES.index(stage)]:
            first.run(done)
        first.run(stage, until=1)
    second = Course(tmp_path / "broken", RECIPE)
    assert second.trainer(STAGES[-1]).step == 1
    for stage in STAGES:
        second.run(stage)
    for name, value in _weights(whole).items():
        assert torch.equal(value, _weights(second)[name]), name
    moved = [name for name, value in _weights(whole).items() if not torch.equal(value, before[name])]
    deep = ("deep.model.multi_modal_projector", "deep.model.language_model")
    for part in ("clip.vision_model", "clip.text_model", *deep):
        assert any(part in name for name in moved), part


def test_every_stage_takes_a_step_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As training runs it; the test above leaves it out because it is slow on a CPU."""
    monkeypatch.setattr(torch.optim, "Muon", QuickMuon)
    one = replace(RECIPE, read_batch=1, world=2, easy=1, answer_phases=(Phase(0, 32, 2, 64),))
    course = Course(tmp_path, one)
    for stage in STAGES:
        before = {name: value.clone() for name, value in _weights(course).items()}
        trainer = course.run(stage, until=1)
        assert np.isfinite(trainer.history[-1]["loss"]), stage
        assert any(not torch.equal(value, before[name]) for name, value in _weights(course).items()), stage
        assert all(value.dtype == torch.float32 for value in _weights(course).values()), stage


def test_an_exported_model_is_the_trained_one(course: Course, tmp_path: Path) -> None:
    """Twice to the same place: the second export replaces the first; the weights come back rounded to bfloat16."""
    for trained in (False, True):
        export(course.deep, course.clip, course.tokenizer, tmp_path / "weights", trained)
        config = json.loads((tmp_path / "weights" / "config.json").read_text())
        assert config[TRAINED] is trained
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "weights").state_dict()
    for name, value in course.deep.state_dict().items():
        assert torch.equal(loaded[name], value.to(torch.bfloat16).float()), name
    clip = CLIPModel.from_pretrained(tmp_path / "weights" / "clip").state_dict()
    for name, value in course.clip.state_dict().items():
        assert torch.equal(clip[name], value.to(torch.bfloat16).float()), name


def test_a_run_is_shipped_as_far_as_it_goes(course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no checkpoint has trained is as drawn; log and configuration say whether the training has ended."""
    monkeypatch.setattr(course, "folder", tmp_path / "run")
    monkeypatch.setattr(shipping, "Course", lambda folder: course if folder == course.folder else None)
    target, log = tmp_path / "weights", tmp_path / "log.json"
    towers = course.trainer("refine")
    with torch.no_grad():
        course.clip.logit_scale.fill_(1.25)
    towers.step = PLAN.steps
    towers.save()
    with torch.no_grad():
        course.clip.logit_scale.fill_(9.0)  # what the checkpoint has counts
    assert not ship(course.folder, target, log)
    assert float(CLIPModel.from_pretrained(target / "clip").logit_scale.detach()) == 1.25
    written = json.loads(log.read_text())
    assert [stage["stage"] for stage in written["stages"]] == ["refine"]
    assert written["ended"] is json.loads((target / "config.json").read_text())[TRAINED] is False
    last = course.trainer(STAGES[-1])
    last.step = PLAN.steps
    last.save()
    assert ship(course.folder, target, log)
    assert json.loads(log.read_text())["weights"] == folder_fingerprint(target)


def test_the_shipped_tokenizer_is_the_one_built_here(course: Course) -> None:
    shipped = AutoProcessor.from_pretrained(directory(), local_files_only=True).tokenizer
    assert shipped.get_vocab() == course.tokenizer.get_vocab()
    text = prompt("how many cups are there?")
    assert shipped(text)["input_ids"] == course.tokenizer(text)["input_ids"]
