"""The shipped folder: it loads offline, asks as LLaVA does, is small, and holds its vision tower's text tower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPModel

import clasp
from clasp.backbones import resolve
from clasp.backbones.clip_text import ClipText, clip_text
from clasp.backbones.hub import own_text_tower
from clasp.methods.cdpruner import SHORT_ANSWERS, CDPruner, scaled
from clasp.methods.visiontrim import VisionTrim
from clasp.ops.diversity import dpp_map
from clasp.ops.similarity import Cosines
from clasp.tiny import directory
from clasp.tiny.forms import BENCHMARKS
from clasp.tiny.painting import paint
from clasp.tiny.questions import ask
from clasp.tiny.scene import GRID, PATCH
from clasp.tiny.training.model import DECODER_LAYERS, VISUAL_TOKENS, prompt
from clasp.tiny.world import generator, scene

pytestmark = pytest.mark.xdist_group("shipped")  # one loaded model for all
Shipped = tuple[torch.nn.Module, AutoProcessor]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = AutoModelForImageTextToText.from_pretrained(directory(), local_files_only=True).eval()
        return model, AutoProcessor.from_pretrained(directory(), local_files_only=True)


def test_any_text_survives_the_tokenizer(shipped: Shipped) -> None:
    tokenizer = shipped[1].tokenizer
    for text in ("what color is the cup?", "Zürich, 3 €\n\tok", "日本 🙂", "Answer with a single word."):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_words_are_single_tokens_and_signs_are_read_letter_by_letter(shipped: Shipped) -> None:
    tokenizer = shipped[1].tokenizer
    answers = {
        item.answer
        for index in range(40)
        for purpose, form in enumerate(BENCHMARKS.values(), start=1)
        for item in form(scene("test", index), generator("test", index, purpose))
    }
    assert len(answers) > 50
    for answer in answers:
        ids = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        spelt = len(answer) if answer.isupper() or answer.isdigit() else 1
        assert len(ids) <= spelt + 1 if spelt > 1 else len(ids) == 1, answer


def test_it_is_a_llava_of_576_visual_tokens_that_is_asked_by_its_template(shipped: Shipped) -> None:
    model, processor = shipped
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    text = processor.apply_chat_template(talk, add_generation_prompt=True)
    assert text == prompt("what is it?")
    ids = processor(images=[Image.new("RGB", (64, 64))], text=[text], return_tensors="pt")["input_ids"]
    assert int((ids == model.config.image_token_id).sum()) == VISUAL_TOKENS
    assert len(model.model.language_model.layers) == DECODER_LAYERS == 32
    assert model.dtype == torch.float32


def test_the_package_is_small() -> None:
    files = [path for path in Path(clasp.__file__).parent.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 45 * 2**20


def test_the_text_tower_belongs_to_the_vision_tower(shipped: Shipped) -> None:
    tower = CLIPModel.from_pretrained(directory() / "clip").vision_model.state_dict()
    own = shipped[0].model.vision_tower.state_dict()
    assert tower.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in tower.items())


def test_the_text_tower_reads_a_text_at_its_end() -> None:
    """As in its training: the pooled state is that of the end token, so every word counts."""
    tokenizer = AutoTokenizer.from_pretrained(directory() / "clip")
    ids = tokenizer("a red cup")["input_ids"]
    assert (ids[0], ids[-1], ids.count(tokenizer.eos_token_id)) == (tokenizer.bos_token_id, tokenizer.eos_token_id, 1)
    texts = _tower().texts("a red cup"), _tower().texts("a blue cup")
    assert float((texts[0] * texts[1]).sum()) < 0.999


def _tower() -> ClipText:
    return clip_text(own_text_tower(resolve("tiny")), "cpu")


def _states(model: torch.nn.Module, processor: AutoProcessor, images: list[Image.Image]) -> torch.Tensor:
    """(images, 576, width) of the layer that the projector reads."""
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]


def test_cdpruner_ranks_the_asked_things_patches_beyond_chance(shipped: Shipped) -> None:
    """By relevance, minus the cosine: CLIP's patches are the less similar to a text the more they show of it."""
    ranks = []
    for index in range(40):
        shown, painting = scene("test", index), paint(scene("test", index))
        question = ask(shown, "color_of", np.random.default_rng(index))
        if question is None:
            continue
        number = [(thing.x, thing.y) for thing in shown.things].index(question.about) + 1
        share = (painting.owner.reshape(GRID, PATCH, GRID, PATCH) == number).mean((1, 3)).reshape(-1)
        cover = torch.from_numpy(share >= 0.2)
        (states,) = _states(*shipped, [Image.fromarray(painting.pixels)])
        relevance = -_tower().similarity(states, question.text)
        if 0 < int(cover.sum()) < len(cover):
            ranks.append(float((relevance[cover][:, None] > relevance[~cover]).float().mean()))  # 0.5 is chance
    assert len(ranks) >= 20
    mean, error = float(np.mean(ranks)), float(np.std(ranks, ddof=1) / len(ranks) ** 0.5)
    assert mean - 3 * error > 0.5


def test_cdpruner_reads_the_shipped_tower(shipped: Shipped) -> None:
    model, processor = shipped
    shown, question = Image.fromarray(paint(scene("test", 3)).pixels), "what color is the biggest thing?"
    inputs = processor(images=[shown], text=[prompt(question + SHORT_ANSWERS[0])], return_tensors="pt")
    with CDPruner(tokens=48)(model, processor) as run, torch.no_grad():
        model(**inputs)
        projected = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    similarity = _tower().similarity(_states(model, processor, [shown])[0], question)
    expected = dpp_map(Cosines(projected[None]), scaled(-similarity[None]), 48)[0].sort().values
    assert run.fallbacks == ()
    assert run.trace.samples[0].kept[0].tolist() == expected.tolist()


def test_visiontrim_reads_the_shipped_tower_as_one_that_is_named(shipped: Shipped) -> None:
    model, processor = shipped
    image = Image.fromarray(paint(scene("test", 3)).pixels)
    inputs = processor(images=[image], text=[prompt("what color is the biggest thing?")], return_tensors="pt")
    logits = []
    for tower in (None, own_text_tower(resolve("tiny"))):
        with VisionTrim(tokens=48, text_tower=tower)(model, processor) as run, torch.no_grad():
            logits.append(model(**inputs).logits)
        assert run.fallbacks == ()
    assert torch.equal(*logits)
