"""The shipped model directory, the tokenizer and the processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from clasp.categories import CATEGORIES
from clasp.tiny import directory
from clasp.tiny.easy import easy_images
from clasp.tiny.model import VISUAL_TOKENS, build_tokenizer, prompt
from clasp.tiny.questions import ask
from clasp.tiny.world import generator, scene


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("what color is the moon?", "Zürich, 3 €\n\tok", "日本 🙂", "Answer with a single word."):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_every_question_word_and_answer_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    questions = [pair for image in easy_images("test")[:200] for pair in image.questions]
    for index in range(150):
        for category in CATEGORIES:
            found = ask(scene("test", index), category, generator("test", index, purpose=2))
            questions += [(found.text, found.answer)] if found else []
    for question, answer in questions:
        words = len(question.split()) + question.count(",") + 1  # the closing mark
        assert len(tokenizer(question, add_special_tokens=False)["input_ids"]) == words, question
        assert len(tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]) == 1, answer


def test_the_shipped_tokenizer_is_the_one_built_here(tokenizer: PreTrainedTokenizerFast) -> None:
    shipped = AutoProcessor.from_pretrained(directory(), local_files_only=True).tokenizer
    assert shipped.get_vocab() == tokenizer.get_vocab()
    text = prompt("how many crosses are there?")
    assert shipped(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_shipped_model_loads_offline_with_576_visual_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = LlavaForConditionalGeneration.from_pretrained(directory(), local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(directory(), local_files_only=True)
    assert model.dtype == torch.float32
    assert len(model.model.language_model.layers) >= 12
    picture = Image.fromarray(np.full((64, 64, 3), 200, dtype=np.uint8))
    inputs = processor(images=[picture], text=[prompt("what is it?")], return_tensors="pt")
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == VISUAL_TOKENS
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
        said = model.generate(**inputs, max_new_tokens=3)
    assert tuple(features[0].shape) == (VISUAL_TOKENS, model.config.text_config.hidden_size)
    assert said.shape[1] > inputs["input_ids"].shape[1]


def test_the_chat_template_writes_the_prompt() -> None:
    processor = AutoProcessor.from_pretrained(directory(), local_files_only=True)
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}]
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == prompt("what is it?")


def test_the_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in directory().iterdir()) <= 25 * 2**20
