"""Videos as people batch them: of several sizes and lengths, several in a prompt, with a picture beside them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import METHODS, masked_logits, pruned
from families import FAMILIES, FRAMES, VIDEO_FAMILIES, Prompt, film, picture
from transformers import AutoProcessor

from clasp.backbones import load

STACKING = ("llava_onevision", "video_llava")
"""Families that hold all videos of a batch in one tensor, so that all need equally many frames."""
NAMES = ("divprune", "fastv", "clasp")


def batches(count: int) -> dict[str, list[Prompt]]:
    one = Prompt(text="What happens?", videos=[film(count, 48, 40, 0)])
    shown = picture(48, 48, 1)
    return {
        "sizes": [one, Prompt(text="Where is it?", videos=[film(count, 72, 33, 10), film(count, 40, 64, 20)])],
        "lengths": [one, Prompt(text="Where is it?", videos=[film(count + 2, 40, 48, 10), film(count, 72, 33, 30)])],
        "pictures": [
            Prompt(text="Which is brighter?", images=[shown], videos=[film(count, 48, 40, 0)]),
            Prompt(text="Why?", images=[shown]),
            one,
        ],
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("family", "batch"),
    [
        (family, batch)
        for family in VIDEO_FAMILIES
        for batch in batches(1)
        if batch != "lengths" or family not in STACKING
    ],
)
def test_a_batch_with_videos_equals_one_by_one(family: str, batch: str, name: str) -> None:
    prompts = batches(FRAMES[family])[batch]
    together, run = pruned(family, METHODS[name], FAMILIES[family].inputs(prompts))
    assert [sample.images for sample in run.trace.samples] == [len([*one.images, *one.videos]) for one in prompts]
    for row, prompt in enumerate(prompts):
        alone, single = pruned(family, METHODS[name], FAMILIES[family].inputs([prompt]))
        assert (together[row, -1] - alone[0, -1]).abs().max() < 1e-3, row
        kept = [stage.tolist() for stage in single.trace.samples[0].kept]
        assert [stage.tolist() for stage in run.trace.samples[row].kept] == kept, row


@pytest.fixture
def stacking(family: str, tmp_path: Path) -> Any:
    """The family's processor as :func:`clasp.load` returns it."""
    FAMILIES[family].processor().save_pretrained(tmp_path)
    model = copy.copy(FAMILIES[family].model())
    model.name_or_path = str(tmp_path)
    return load(model)[1]


@pytest.mark.parametrize("family", STACKING)
def test_videos_of_unequal_length_are_refused_as_a_batch_and_work_one_by_one(family: str, stacking: Any) -> None:
    """Evaluation samples equally many frames of every video, see `tests/evaluation/test_video.py`."""
    count = FRAMES[family]
    prompts = [
        Prompt(text="What happens?", videos=[film(count, 48, 40, 0)]),
        Prompt(text="Where is the star?", videos=[film(count // 2, 40, 48, 10)]),
    ]
    short = count // 2
    with pytest.raises(ValueError, match=rf"these have {count}, {short} frames; .*num_frames={short}.* one prompt at"):
        FAMILIES[family].inputs(prompts, stacking)
    for prompt, frames in zip(prompts, (count, count // 2), strict=True):
        _, run = pruned(family, METHODS["fastv"], FAMILIES[family].inputs([prompt], stacking))
        a_frame = run.trace.samples[0].visual_entering[0] // frames
        assert a_frame == (17 if family == "video_llava" else 9)


@pytest.mark.parametrize("family", STACKING)
def test_the_remedies_named_for_unequal_lengths_work(family: str, stacking: Any, tmp_path: Path) -> None:
    count = FRAMES[family]
    films = [np.stack([np.asarray(frame) for frame in film(length, 48, 40, length)]) for length in (count, count // 2)]
    texts = [FAMILIES[family].processor().apply_chat_template(Prompt(text="Why?", videos=[[]]).messages())] * 2
    sampled = stacking(
        text=texts, videos=films, padding=True, return_tensors="pt", do_sample_frames=True, num_frames=count // 2
    )
    assert sampled["pixel_values_videos"].shape[:2] == (2, count // 2)
    _, run = pruned(family, METHODS["fastv"], sampled)
    assert [sample.images for sample in run.trace.samples] == [1, 1]
    for copied in (copy.deepcopy(stacking), pickle.loads(pickle.dumps(stacking))):
        with pytest.raises(ValueError, match="equally many"):
            copied(text=texts, videos=films, padding=True, return_tensors="pt")
    stacking.save_pretrained(tmp_path / "saved")
    again = type(AutoProcessor.from_pretrained(tmp_path / "saved").video_processor)
    assert again.__module__.startswith("transformers."), "what is saved is transformers' own"


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_picture_and_a_video_dropped_equal_masked(family: str) -> None:
    count = FRAMES[family]
    prompt = Prompt(text="Which is brighter?", images=[picture(48, 48, 1)], videos=[film(count, 48, 40, 0)])
    inputs = FAMILIES[family].inputs([prompt])
    logits, run = pruned(family, dataclasses.replace(METHODS["fastv"], positions="original"), inputs, "eager")
    assert (logits[:, -1] - masked_logits(run, inputs)[:, -1]).abs().max() < 1e-4
