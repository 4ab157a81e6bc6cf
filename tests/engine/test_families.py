"""The small families are sound: processors, models and prompt formats fit each other before anything is pruned."""

from __future__ import annotations

from typing import Any

import pytest
from cases import placeholders
from families import FAMILIES, Family, Prompt, picture

SIZES = ((37, 91), (60, 200), (64, 64))  # height, width
VIDEO = 8


def batch(family: Family) -> list[Prompt]:
    """One picture of each size, two pictures, none, and a video where the family takes one."""
    prompts = [Prompt(text="What color is it?", images=[picture(*size[::-1])]) for size in SIZES]
    prompts.append(Prompt(text="How many?\nA. two\nB. three", images=[picture(91, 37, 1), picture(64, 64, 2)]))
    prompts.append(Prompt(text="Is there a star in the image?"))
    if family.takes_videos:
        prompts.append(Prompt(text="Describe the video.", videos=[[picture(60, 40, frame) for frame in range(VIDEO)]]))
    return prompts


def counted(family: Family, inputs: Any) -> list[int]:
    """Placeholders in each row."""
    return placeholders(family.model(), inputs["input_ids"]).sum(dim=1).tolist()


@pytest.fixture(scope="session", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="session")
def inputs(family: Family) -> Any:
    return family.inputs(batch(family))


def test_every_weight_is_drawn(family: Family) -> None:
    flat = [
        name
        for name, parameter in family.model().named_parameters()
        if parameter.numel() > 1 and float(parameter.detach().std()) < 0.02
    ]
    assert not flat


# Visual tokens of the three sizes, counted by hand from the published rule:
# LLaVA: 8 x 8. NeXT: the whole picture's 4 x 4, then the unpadded best tiling (h x w) and one newline per row.
# OneVision: 5 x 5 in place of 4 x 4. Qwen: cells of 8 x 8 pixels after smart_resize, at most 120.
# InternVL: 4 x 4 a crop of 32 pixels, the nearest shape of at most 4 tiles and the whole. SmolVLM: 4 x 4 a crop of 24
# pixels, the longer side scaled to 3 of them, and the whole.
COUNTS = {
    "llava": (64, 64, 64),
    "llava_next": (16 + 4 * 10 + 4, 16 + 4 * 12 + 4, 16 + 8 * 8 + 8),
    "llava_onevision": (25 + 5 * 13 + 5, 25 + 6 * 20 + 6, 25 + 10 * 10 + 10),
    "video_llava": (16, 16, 16),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), (5 * 11, 6 * 20, 8 * 8)),
    "internvl": (16 * (2 + 1), 16 * (3 + 1), 16 * (4 + 1)),
    "smolvlm": (16 * (2 * 3 + 1), 16 * (1 * 3 + 1), 16 * (3 * 3 + 1)),
}
VIDEO_COUNTS = {
    "video_llava": VIDEO * 17,  # CLS stays
    "llava_onevision": VIDEO * 9 + 1,  # 5 x 5 pooled to 3 x 3, one newline for all
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), VIDEO // 2 * 4 * 6),  # 30 cells a frame pair at most
}


def test_placeholders(family: Family, inputs: Any) -> None:
    counts = counted(family, inputs)
    assert tuple(counts[:3]) == COUNTS[family.name]
    assert counts[4] == 0
    if family.takes_videos:
        assert counts[5] == VIDEO_COUNTS[family.name]


def test_several_pictures(family: Family, inputs: Any) -> None:
    """Rows with two pictures; only OneVision treats them unlike two rows of one picture: no tiles, one newline each."""
    count = counted(family, inputs)[3]
    alone = COUNTS[family.name]
    assert count == (2 * (25 + 1) if family.name == "llava_onevision" else alone[0] + alone[2])


def test_onevision_shrinks_beyond_nine_tiles() -> None:
    family = FAMILIES["llava_onevision"]
    inputs = family.inputs([Prompt(text="What?", images=[picture(176, 176)])])
    assert counted(family, inputs) == [25 + 15 * 15 + 15]  # 4 x 4 tiles of 5 x 5, by sqrt(16 / 9)
    family.model()(**inputs)


# As the model cards and transformers' documentation print them, for one picture (or video) and one question.
DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QWEN = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n<|im_start|>assistant\n"
FORMATS = {
    **dict.fromkeys(("llava", "llava_next", "video_llava"), "USER: <image>\nWhat? ASSISTANT:"),
    "llava_onevision": "<|im_start|>user <image>\nWhat?<|im_end|><|im_start|>assistant\n",
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\nWhat?<|im_end|>\n<|im_start|>assistant\n",
    "smolvlm": "<|im_start|>User:<image>What?<end_of_utterance>\nAssistant:",
    "qwen2_vl": DEFAULT_SYSTEM + QWEN,
    "qwen2_5_vl": DEFAULT_SYSTEM + QWEN,
    "qwen3_vl": QWEN,
}


def test_prompt_format(family: Family) -> None:
    def rendered(prompt: Prompt) -> str:
        return family.processor().apply_chat_template(prompt.messages(), add_generation_prompt=True, tokenize=False)

    expected = FORMATS[family.name]
    assert rendered(Prompt(text="What?", images=[None])) == expected
    if family.takes_videos:
        video = expected.replace("<image>", "<video>").replace("image_pad", "video_pad")
        assert rendered(Prompt(text="What?", videos=[None])) == video
    system = rendered(Prompt(text="What?", images=[None], system="Be brief."))
    if family.name == "smolvlm":
        opened = "<|im_start|>System: Be brief.<end_of_utterance>\n"
        assert system == opened + expected.removeprefix("<|im_start|>")
    elif "im_start" in expected:
        between, end = (" \n", "") if family.name == "llava_onevision" else ("\n", "\n")
        assert system == f"<|im_start|>system{between}Be brief.<|im_end|>{end}" + expected.removeprefix(DEFAULT_SYSTEM)
    else:
        assert system == "Be brief. " + expected
