"""The small families are sound: every weight matters, and prompts are those of the model cards."""

from __future__ import annotations

import pytest
from families import FAMILIES, Family, Prompt


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def test_every_weight_is_drawn(family: Family) -> None:
    weights = [(name, weight) for name, weight in family.model().named_parameters() if weight.numel() > 1]
    assert not [name for name, weight in weights if float(weight.detach().std()) < 0.02]


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
        return family.processor().apply_chat_template(prompt.messages(), add_generation_prompt=True)

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
