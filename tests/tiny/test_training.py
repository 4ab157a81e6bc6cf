"""Packing, the token choice and the training loop: what is learnt is what inference does, and a stop loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from clasp.tiny import training
from clasp.tiny.answering import choose_tokens
from clasp.tiny.attention import products_attention, use_own
from clasp.tiny.features import Gallery
from clasp.tiny.loop import Plan
from clasp.tiny.model import VISUAL_TOKENS, build_tokenizer, export, prompt
from clasp.tiny.packing import IGNORE, attention_bias
from clasp.tiny.seeing import world_labels
from clasp.tiny.training import STAGES, Course, Recipe

pytestmark = pytest.mark.xdist_group("training")  # one tokenizer and one course for all
PLAN = Plan(steps=2, rate=1e-3, warmup=1, decay=1, every=100)
RECIPE = Recipe(
    see=PLAN,
    windowed=0.5,  # as the phases and fresh scenes below: another way after the first step, at which runs are broken
    see_batch=2,
    read=PLAN,
    read_batch=2,
    read_tokens=64,
    align=PLAN,
    answer=PLAN,
    phases=((1, 32, 2, 64), (0, 48, 2, 64)),
    scenes=6,
    world=4,
    easy=2,
    fresh=1,
)


@pytest.fixture(scope="module", autouse=True)
def one_tokenizer() -> Iterator[None]:
    """Building it is most of what a course takes; no course changes it."""
    tokenizer = build_tokenizer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_tokenizer", lambda: tokenizer)
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
    model, packer = course.model, course.packer
    use_own(model)
    asked = [("ocr", "what word is shown?", "cat"), ("scene", "what season is it?", "winter")]
    rows = packer.pack([asked], 40)
    visual = torch.randn(1, VISUAL_TOKENS, 128, generator=torch.Generator().manual_seed(0))
    words = model.model.language_model.embed_tokens
    pieces = [words(torch.tensor([packer.before])), visual, words(torch.tensor([packer.after])), words(rows.tokens)]
    prefix = len(packer.before) + VISUAL_TOKENS + len(packer.after)
    positions = torch.cat([torch.arange(prefix)[None], rows.positions], dim=1)
    bias = attention_bias(prefix, rows.segments, torch.float32)
    decoder = model.model.language_model
    with torch.no_grad():
        packed = decoder(
            inputs_embeds=torch.cat(pieces, 1), attention_mask=bias, position_ids=positions, use_cache=False
        ).last_hidden_state
        for number, (_, question, answer) in enumerate(asked, start=1):
            ids = torch.tensor(course.tokenizer(prompt(question))["input_ids"])
            start = int((ids == model.config.image_token_id).nonzero()[0])
            expanded = torch.cat([words(ids[:start]), visual[0], words(ids[start + 1 :])])[None]
            alone = decoder(inputs_embeds=expanded, use_cache=False).last_hidden_state[0, -1]
            place = int(((rows.segments[0] == number) & (rows.targets[0] != IGNORE)).nonzero()[0])
            torch.testing.assert_close(packed[0, prefix + place], alone, atol=1e-4, rtol=1e-4)
            assert course.tokenizer.decode(rows.targets[0, place]).strip() == answer


def test_only_answers_are_targets(course: Course) -> None:
    rows = course.packer.pack([[("ocr", "what word is shown?", "cat")], []], 24)
    said = rows.targets[0][rows.targets[0] != IGNORE].tolist()
    assert said == [*course.tokenizer(" cat", add_special_tokens=False)["input_ids"], course.tokenizer.eos_token_id]
    assert (rows.targets[1] == IGNORE).all()


def test_objects_are_kept_first() -> None:
    labels = torch.from_numpy(np.stack([world_labels("train", n) for n in range(4)]))
    objects = labels[:, 0] > 0
    kept = choose_tokens(objects, 200, seed=3)
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(objects.gather(1, kept).sum(1), objects.sum(1).clamp(max=200))
    assert torch.equal(choose_tokens(objects, VISUAL_TOKENS, 0)[0], torch.arange(VISUAL_TOKENS))


def test_rates_rise_hold_and_fall() -> None:
    plan = Plan(steps=100, rate=1.0, warmup=10, decay=20)
    rates = [plan.rate_at(step) for step in range(100)]
    assert [rates[0], rates[50], rates[99]] == pytest.approx([0.1, 1.0, 0.05])
    assert [replace(plan, steps=200).rate_at(step) for step in range(80)] == rates[:80]


def _weights(course: Course) -> dict[str, torch.Tensor]:
    return course.model.state_dict()


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
    assert second.trainer("answer").step == 1
    for stage in STAGES:
        second.run(stage)
    for name, value in _weights(whole).items():
        assert torch.equal(value, _weights(second)[name]), name
    moved = [name for name, value in _weights(whole).items() if not torch.equal(value, before[name])]
    for part in ("vision_tower", "multi_modal_projector", "language_model", "lm_head"):
        assert any(part in name for name in moved), part


def test_every_stage_takes_a_step_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As training runs it; the test above leaves it out because it is slow on a CPU."""
    monkeypatch.setattr(torch.optim, "Muon", QuickMuon)
    one = replace(RECIPE, read_batch=1, world=2, easy=1, phases=((0, 32, 2, 64),))
    course = Course(tmp_path, one)
    for stage in STAGES:
        before = {name: value.clone() for name, value in _weights(course).items()}
        trainer = course.run(stage, until=1)
        assert np.isfinite(trainer.history[-1]["loss"]), stage
        assert any(not torch.equal(value, before[name]) for name, value in _weights(course).items()), stage
        assert all(value.dtype == torch.float32 for value in _weights(course).values()), stage


def test_an_exported_model_is_the_trained_one(course: Course, tmp_path: Path) -> None:
    """Twice to the same place: the second export replaces the first; the weights come back rounded to bfloat16."""
    for _ in range(2):
        export(course.model, course.tokenizer, tmp_path / "weights")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "weights").state_dict()
    for name, value in course.model.state_dict().items():
        assert torch.equal(loaded[name], value.to(torch.bfloat16).float()), name


def test_an_unknown_stage_is_named(course: Course) -> None:
    with pytest.raises(ValueError, match=r"'sleep'.*see, read, align, answer"):
        course.trainer("sleep")
