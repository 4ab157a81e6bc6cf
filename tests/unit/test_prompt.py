"""The instruction's tokens, found in every family's prompt format with its kind of tokenizer."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clasp.backbones.prompt import PromptReader

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from families import FAMILIES, Family, Prompt

IMAGE = Image.new("RGB", (64, 64), (200, 30, 30))
INSTRUCTIONS = (
    "What color is the circle?",
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


def decoded(family: Family, ids: list[int], positions: list[int]) -> str:
    return family.processor().tokenizer.decode([ids[place] for place in positions]).strip()


def media(family: Family) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {"none": {}, "one": {"images": [IMAGE]}, "two": {"images": [IMAGE, IMAGE]}}
    if family.takes_videos:
        cases["video"] = {"videos": [[IMAGE] * 4]}
        cases["both"] = {"images": [IMAGE], "videos": [[IMAGE] * 4]}
    return cases


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_instruction_is_the_users_words_and_nothing_else(
    family: Family, reader: PromptReader, instruction: str
) -> None:
    for case, given in media(family).items():
        for system in SYSTEMS if given else SYSTEMS[:2]:
            ids = ids_of(family, Prompt(text=instruction, system=system, **given))
            positions = reader.positions(ids)
            assert reader.text(ids) == instruction, (case, system)
            assert decoded(family, ids, positions) == instruction, (case, system)
            assert positions == list(range(positions[0], positions[-1] + 1)), "words stand together"
            assert positions[0] > max(
                (place for place, token in enumerate(ids) if token in placeholders(family)), default=0
            )


def test_one_placeholder_or_several(family: Family) -> None:
    processor = family.processor()
    ids = ids_of(family, Prompt(text="What color?", images=[IMAGE]))
    one, several = PromptReader(processor, processor.image_token_id), PromptReader(processor, placeholders(family))
    assert one.positions(ids) == several.positions(ids)
    assert one.text(ids) == several.text(ids) == "What color?"
    if family.takes_videos and family.name != "qwen3_vl":  # there, only named placeholders tell frame times from words
        # a placeholder of the kind that was not named is still no word
        ids = ids_of(family, Prompt(text="What color?", videos=[[IMAGE] * 4]))
        assert one.text(ids) == several.text(ids) == "What color?"


def test_an_answer_that_is_already_begun_is_no_instruction(family: Family, reader: PromptReader) -> None:
    ids = ids_of(family, Prompt(text="What color?", images=[IMAGE]))
    begun = ids + family.processor().tokenizer("It is", add_special_tokens=False)["input_ids"]
    assert reader.positions(begun) == reader.positions(ids)
    assert reader.text(begun) == "What color?"


def test_only_the_last_turn_where_special_tokens_mark_turns(family: Family, reader: PromptReader) -> None:
    if "im_start" not in family.processor().chat_template or family.name == "smolvlm":  # it opens the dialogue alone
        pytest.skip("turns of plain words cannot be told from the user's own words")
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}
    first, second = Prompt(text="What color?", images=[IMAGE]), Prompt(text="Why?")
    dialogue = [*first.messages(), answer, *second.messages()]
    processor = family.processor()
    text = processor.apply_chat_template(dialogue, add_generation_prompt=True, tokenize=False)
    ids = processor(text=[text], images=[[IMAGE]], return_tensors="pt")["input_ids"][0].tolist()
    assert reader.text(ids) == "Why?"
    assert decoded(family, ids, reader.positions(ids)) == "Why?"


def test_words_before_the_image_are_read_but_cannot_see_it(family: Family, reader: PromptReader) -> None:
    """Only the text after the image attends to it; the router reads all of it."""
    processor = family.processor()
    opening = "<|vision_start|>" if "qwen" in family.name else processor.image_token
    prompt = Prompt(text="and why?", images=[IMAGE]).messages()
    text = processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    text = text.replace(opening, f"What is it {opening}")
    ids = processor(text=[text], images=[IMAGE], return_tensors="pt")["input_ids"][0].tolist()
    assert reader.text(ids).split() == ["What", "is", "it", "and", "why?"]
    assert decoded(family, ids, reader.positions(ids)) == "and why?"


def test_image_alone_leaves_the_last_token(family: Family, reader: PromptReader) -> None:
    ids = ids_of(family, Prompt(text="", images=[IMAGE]))
    assert reader.text(ids) == ""
    assert reader.positions(ids) == [len(ids) - 1]


def test_without_a_chat_template_everything_is_instruction(family: Family) -> None:
    tokenizer = family.processor().tokenizer
    ids = tokenizer("Describe the USER: image.")["input_ids"]
    bare = PromptReader(tokenizer, placeholders(family))
    assert bare.text(ids) == "Describe the USER: image."
    assert decoded(family, ids, bare.positions(ids)) == "Describe the USER: image."


def test_a_template_that_refuses_system_prompts(family: Family) -> None:
    processor = copy.copy(family.processor())
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    processor.chat_template = refusal + processor.chat_template
    ids = ids_of(family, Prompt(text="What color is the assistant?", images=[IMAGE]))
    assert PromptReader(processor, placeholders(family)).text(ids) == "What color is the assistant?"
