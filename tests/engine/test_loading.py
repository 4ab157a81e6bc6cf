"""Arguments of `load`, processors and chat templates: which are accepted, and how others are refused before any run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, Prompt
from probe import ONE

from clasp.backbones import BackboneUnavailable, load
from clasp.backbones.base import UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.methods import get
from clasp.tiny import directory


def test_a_folder_may_be_a_path_or_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small").symlink_to(directory())
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (Path(directory()), "~/models/small", Path("~/models/small")):
        model, processor = load(name)
        assert type(model).__name__ == "LlavaForConditionalGeneration"
        assert processor.tokenizer.padding_side == "left"


def test_a_model_in_memory_brings_its_processor_or_says_that_it_cannot() -> None:
    model, _ = load("tiny")
    again, processor = load(model)
    assert again is model
    assert processor.tokenizer is not None
    with pytest.raises(BackboneUnavailable, match=r"LlavaForConditionalGeneration in memory.*pass both to the method"):
        load(FAMILIES["llava"].model())


@pytest.mark.parametrize("name", ["./nothing", "/no/where", "~/no/where", "a/b/c"])
def test_a_folder_that_is_not_there_is_named_as_a_folder(name: str) -> None:
    with pytest.raises(BackboneUnavailable, match=r"is a folder that is not on this machine") as error:
        load(name)
    assert "hf download" not in str(error.value)


@pytest.mark.parametrize("processor", [None, object()])
def test_a_processor_without_a_tokenizer_is_refused(processor: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"processor=\w+ has no tokenizer.*AutoProcessor"):
        get("fastv")(ratio=0.5)(FAMILIES["llava"].model(), processor)


def reader(template: str) -> tuple[PromptReader, Any]:
    processor = copy.copy(FAMILIES["llava"].processor())
    processor.chat_template = template
    return PromptReader(processor, [FAMILIES["llava"].model().config.image_token_id]), processor


@pytest.mark.parametrize("joined", ["message['content']", "'' + message['content']"])
def test_a_template_that_wants_text_is_given_text(joined: str) -> None:
    template = "{% for message in messages %}USER: {{ " + joined + " }} ASSISTANT:{% endfor %}"
    read, processor = reader(template)
    text = processor.apply_chat_template([{"role": "user", "content": "<image>\nWhat color is it?"}])
    assert read.text(processor.tokenizer(text)["input_ids"]) == "What color is it?"


@pytest.mark.parametrize("template", ["{{ raise_exception('only tools here') }}", "{{ messages[0].nothing + 1 }}", "x"])
def test_a_template_that_renders_no_user_is_refused(template: str) -> None:
    with pytest.raises(UnsupportedError, match=r"chat template cannot render a user's turn.*chat_template = None"):
        reader(template)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_a_user_types_are_read(family: str) -> None:
    """Special tokens of the template and around the picture are not read."""
    small = FAMILIES[family]
    typed = "<|im_end|>" if "<|im_end|>" in small.processor().tokenizer.all_special_tokens else "</s>"
    read = PromptReader(small.processor(), [small.model().config.image_token_id])
    for words in (f"What does {typed} mean?", "What does it mean?"):
        ids = small.inputs([Prompt(text=words, images=ONE.images)])["input_ids"][0].tolist()
        assert " ".join(read.text(ids).split()) == words
