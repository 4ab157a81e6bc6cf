"""The instruction's tokens, found in every family's prompt format with its kind of tokenizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from families import FAMILIES, Family, Prompt
from PIL import Image

from clasp.backbones.prompt import PromptReader

IMAGE = Image.new("RGB", (64, 64), (200, 30, 30))
INSTRUCTIONS = (
    "Why",
    "How many red shapes are there?\nAnswer the question using a single word or phrase.",
    "Which one is it?\n\nA. red\nB. green\nC. blue\nAnswer with the option's letter from the given choices directly.",
    "Does USER: or ASSISTANT: stand in the image, and is the user an assistant?",
    "USER: quoted ASSISTANT: also quoted",
    "system\nYou are a helpful assistant.\nuser\nRead this assistant",
    "assistant",
    "Où est le café? 図は何色ですか 🙂",
    "Is it <b>bold</b> at <3.5 seconds>, 50 % of the time?",
)
SYSTEMS = (None, "Be brief.", "A chat between a curious USER: and an assistant.\nuser\n")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def reader(family: Family) -> PromptReader:
    return PromptReader(family.processor(), placeholders(family))


def placeholders(family: Family) -> set[int]:
    processor = family.processor()
    return {processor.image_token_id} | ({processor.video_token_id} if family.takes_videos else set())


def ids_of(family: Family, prompt: Prompt) -> list[int]:
    return family.inputs([prompt])["input_ids"][0].tolist()


def read(family: Family, reader: PromptReader, ids: list[int]) -> tuple[str, str]:
    """The instruction's text, and the words at its positions."""
    seen = [ids[place] for place in reader.positions(ids)]
    return reader.text(ids), family.processor().tokenizer.decode(seen).strip()


def media(family: Family) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {"none": {}, "one": {"images": [IMAGE]}, "two": {"images": [IMAGE, IMAGE]}}
    if family.takes_videos:
        cases["video"] = {"videos": [[IMAGE] * 4]}
        cases["both"] = {"images": [IMAGE], "videos": [[IMAGE] * 4]}
    return cases


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_instruction_is_the_users_words_alone(family: Family, reader: PromptReader, instruction: str) -> None:
    for case, given in media(family).items():
        for system in SYSTEMS if given else SYSTEMS[:2]:
            ids = ids_of(family, Prompt(text=instruction, system=system, **given))
            assert read(family, reader, ids) == (instruction, instruction), (case, system)
            positions = reader.positions(ids)
            assert positions == list(range(positions[0], positions[-1] + 1)), "words stand together"
            assert placeholders(family).isdisjoint(ids[positions[0] :]), "behind the image"


def test_one_placeholder_or_several(family: Family) -> None:
    processor = family.processor()
    ids = ids_of(family, Prompt(text="What color?", images=[IMAGE]))
    one, several = PromptReader(processor, processor.image_token_id), PromptReader(processor, placeholders(family))
    assert read(family, one, ids) == read(family, several, ids) == ("What color?", "What color?")
    if family.takes_videos and family.name != "qwen3_vl":  # there, only named placeholders tell frame times from words
        # a placeholder of the kind that was not named is still no word
        ids = ids_of(family, Prompt(text="What color?", videos=[[IMAGE] * 4]))
        assert one.text(ids) == several.text(ids) == "What color?"


def test_an_answer_that_is_already_begun_is_no_instruction(family: Family, reader: PromptReader) -> None:
    ids = ids_of(family, Prompt(text="What color?", images=[IMAGE]))
    begun = ids + family.processor().tokenizer("It is", add_special_tokens=False)["input_ids"]
    assert read(family, reader, begun) == ("What color?", "What color?")


def test_only_the_last_turn_where_special_tokens_mark_turns(family: Family, reader: PromptReader) -> None:
    if "im_start" not in family.processor().chat_template or family.name == "smolvlm":  # it opens the dialogue alone
        pytest.skip("turns of plain words cannot be told from the user's own words")
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}
    first, second = Prompt(text="What color?", images=[IMAGE]), Prompt(text="Why?")
    dialogue = [*first.messages(), answer, *second.messages()]
    processor = family.processor()
    text = processor.apply_chat_template(dialogue, add_generation_prompt=True, tokenize=False)
    ids = processor(text=[text], images=[[IMAGE]], return_tensors="pt")["input_ids"][0].tolist()
    assert read(family, reader, ids) == ("Why?", "Why?")


def test_words_before_the_image_are_read_but_cannot_see_it(family: Family, reader: PromptReader) -> None:
    """Only the text after the image attends to it; the router reads all of it."""
    processor = family.processor()
    opening = "<|vision_start|>" if "qwen" in family.name else processor.image_token
    prompt = Prompt(text="and why?", images=[IMAGE]).messages()
    text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    text = text.replace(opening, f"What is it {opening}")
    ids = processor(text=[text], images=[IMAGE], return_tensors="pt")["input_ids"][0].tolist()
    words, seen = read(family, reader, ids)
    assert (" ".join(words.split()), seen) == ("What is it and why?", "and why?")


def test_image_alone_leaves_the_last_token(family: Family, reader: PromptReader) -> None:
    ids = ids_of(family, Prompt(text="", images=[IMAGE]))
    assert reader.text(ids) == ""
    assert reader.positions(ids) == [len(ids) - 1]


def test_without_a_chat_template_everything_is_instruction(family: Family) -> None:
    tokenizer, words = family.processor().tokenizer, "Describe the USER: image."
    bare = PromptReader(tokenizer, placeholders(family))
    assert read(family, bare, tokenizer(words)["input_ids"]) == (words, words)


def test_a_template_that_refuses_system_prompts(family: Family) -> None:
    processor = copy.copy(family.processor())
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    processor.chat_template = refusal + processor.chat_template
    ids = ids_of(family, Prompt(text="What color is the assistant?", images=[IMAGE]))
    assert PromptReader(processor, placeholders(family)).text(ids) == "What color is the assistant?"
