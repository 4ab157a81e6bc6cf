"""Pictures and prompts prepared as for published numbers, where that differs from the backbone's processor."""

from __future__ import annotations

import importlib
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES
from full_size import PROCESSORS
from PIL import Image

from clasp.backbones import ADAPTERS
from clasp.backbones.presentation import WITH_VIDEOS, Presentation, padded
from clasp.backbones.prompt import PromptReader, with_template
from clasp.evaluation.generation.answering import Answerer, Question
from clasp.methods import build
from clasp.strict import ConfigError

llava_processor, video_llava_processor, qwen2_5_vl_processor, qwen3_vl_processor = (
    PROCESSORS[f"{family}ForConditionalGeneration"] for family in ("Llava", "VideoLlava", "Qwen2_5_VL", "Qwen3VL")
)
MEAN = (122, 116, 104)
"""CLIP's mean colour times 255, rounded down."""
VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
LMMS_EVAL_PIXELS = {"min_pixels": 256 * 28 * 28, "max_pixels": 1_605_632}


def gradient(width: int, height: int) -> Image.Image:
    """No two columns and no two rows alike."""
    rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    return Image.fromarray(np.stack([rows, columns, 255 - columns], axis=2).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(7, 4), (4, 7), (6, 6), (1, 5)])
def test_padding_is_llavas(width: int, height: int) -> None:
    """Against plain loops over the rule of its code: offset half of the difference, rounded down."""
    picture, side = gradient(width, height), max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    made = padded(picture, transformers.CLIPImageProcessor().image_mean)
    assert made.size == (side, side)
    for x, y in product(range(side), repeat=2):
        inside = 0 <= x - left < width and 0 <= y - top < height
        assert made.getpixel((x, y)) == (picture.getpixel((x - left, y - top)) if inside else MEAN)


def asked(family: str, processor: Any, presentation: Presentation, *pictures: Image.Image, video: Any = None) -> Any:
    """Inputs that the answerer makes of a question about pictures."""
    answerer = Answerer(FAMILIES[family].model(), processor, build("none", {}), presentation=presentation)
    videos = () if video is None else (video,)
    return answerer._inputs([Question("set[0]", "What?", pictures, {}, None, videos)])


def test_the_answerer_pads_pictures_and_no_videos() -> None:
    padding = Presentation("pad")
    picture = gradient(500, 333)
    processor = llava_processor()
    usual, other = (asked("llava", processor, shown, picture)["pixel_values"] for shown in (Presentation(), padding))
    assert not torch.equal(usual, other)
    expected = processor.image_processor(padded(picture, processor.image_processor.image_mean), return_tensors="pt")
    assert torch.equal(other, expected["pixel_values"])
    clip = np.asarray(gradient(64, 48))[None].repeat(9, axis=0)
    frames = [
        asked("video_llava", video_llava_processor(), shown, video=clip)["pixel_values_videos"]
        for shown in (Presentation(), padding)
    ]
    assert torch.equal(*frames)


@pytest.mark.parametrize(
    ("family", "make", "unit", "usual", "bounded"),
    [
        # 40 x 40 pixels: the processor's 2 x 2 tokens and lmms-eval's least; 4,000 x 3,000: 39 x 52 tokens of 28 pixels
        ("qwen2_5_vl", qwen2_5_vl_processor, 28, (4, 15_301), (256, 2_028)),
        ("qwen3_vl", qwen3_vl_processor, 32, (64, 11_750), (196, 1_530)),
    ],
    ids=["qwen2_5_vl", "qwen3_vl"],
)
def test_bounds_on_pixels_are_lmms_evals(family: str, make: Any, unit: int, usual: Any, bounded: Any) -> None:
    processor = make()
    for shown, expected in ((Presentation(), usual), (Presentation(**LMMS_EVAL_PIXELS), bounded)):
        pictures = [gradient(40, 40), gradient(4000, 3000)]
        grids = [asked(family, processor, shown, picture)["image_grid_thw"] for picture in pictures]
        assert tuple(int(grid.prod()) // 4 for grid in grids) == expected
    assert bounded[0] * unit**2 >= LMMS_EVAL_PIXELS["min_pixels"]
    assert bounded[1] * unit**2 <= LMMS_EVAL_PIXELS["max_pixels"]
    assert processor.image_processor.size["longest_edge"] > 10_000_000, "the caller's processor is left as it is"


def test_the_system_prompt_makes_llavas_published_prompt() -> None:
    """``conv_vicuna_v1`` of LLaVA's own code, which lmms-eval's ``llava`` uses too."""
    processor = llava_processor()
    shown = Presentation(system_prompt=VICUNA_V1)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    text = processor.apply_chat_template(shown.messages(turn), add_generation_prompt=True)
    assert text == f"{VICUNA_V1} USER: <image>\nWhat? ASSISTANT:"
    ids = asked("llava", processor, shown, gradient(9, 9))["input_ids"][0].tolist()
    start = processor.tokenizer.bos_token_id
    assert [ids[0], ids.count(start)] == [start, 1], "one beginning-of-sequence token"
    reader = PromptReader(processor, processor.tokenizer.convert_tokens_to_ids("<image>"))
    assert reader.text(ids) == "What?"


def test_a_default_presentation_adds_nothing_to_signature_and_protocol() -> None:
    assert Presentation().identity() == {}
    assert Presentation().protocol == ""
    shown = Presentation("pad", "Be brief.", 1, 2, 3)
    sizes = {"min_pixels": 1, "max_pixels": 2, "frames": 3}
    assert shown.identity() == {"preprocessing": "pad", "system_prompt": "Be brief."} | sizes
    for said in ("images padded to a square", "system prompt 'Be brief.'", "at least 1 pixels", "3 frames a video"):
        assert said in shown.protocol


@pytest.mark.parametrize(
    ("shown", "adapter", "words"),
    [
        (Presentation("pad"), "llava_next", r"preprocessing=pad.*backbone=b keeps.*preprocessing=processor"),
        (Presentation(max_pixels=9), "llava", r"max_pixels=9 is for Qwen's.*leave it out"),
        (Presentation(min_pixels=0), "qwen2_5_vl", r"min_pixels=0 is no number of pixels"),
        (Presentation(min_pixels=9, max_pixels=8), "qwen2_5_vl", r"min_pixels=9 is above.*max_pixels=8"),
        (Presentation(frames=8), "llava_next", r"frames=8 is for backbones that take videos.*leave it out"),
        (Presentation(frames=1), "qwen3_vl", r"frames=1 is too few.*use 2 or more"),
        (Presentation(frames=0), "video_llava", r"frames=0 is too few.*use 1 or more"),
        (Presentation(system_prompt=" "), "llava", r"system_prompt is empty.*null"),
    ],
)
def test_presentations_that_a_backbone_does_not_take_are_refused(shown: Presentation, adapter: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        shown.check("b", f"clasp.backbones.{adapter}")


def test_video_llava_is_asked_as_its_card_says_although_its_processor_has_no_template() -> None:
    """The released repository has no template at the commit that ``configs/backbone`` names."""
    processor = video_llava_processor()
    expected = processor.chat_template
    words = {"type": "text", "text": "What?"}
    of_video, of_image = ({"role": "user", "content": [{"type": kind}, words]} for kind in ("video", "image"))
    turns = [[of_video], [of_image], Presentation(system_prompt="Be brief.").messages(of_image)]
    rendered = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    assert rendered[0] == "USER: <video>\nWhat? ASSISTANT:"
    processor.chat_template = None
    given = with_template(processor)
    assert [given.apply_chat_template(turn, add_generation_prompt=True) for turn in turns] == rendered
    processor.chat_template = expected
    assert with_template(processor).chat_template == expected, "one that is there stays"
    other = llava_processor()
    other.chat_template = None
    assert with_template(other).chat_template is None, "no template is made up for others"


def test_frames_are_for_the_families_that_take_videos() -> None:
    """The list, which needs no torch, against the adapters."""
    takes = {module for module, name in ADAPTERS.values() if getattr(importlib.import_module(module), name).frames}
    assert set(WITH_VIDEOS) == takes
