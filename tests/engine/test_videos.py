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
BATCHES = [
    (family, batch)
    for family in VIDEO_FAMILIES
    for batch in ("sizes", "lengths", "pictures")
    if batch != "lengths" or family not in STACKING
]


def prompts_of(family: str, batch: str) -> list[Prompt]:
    count, shown = FRAMES[family], picture(48, 48, 1)
    one = Prompt(text="What happens?", videos=[film(count, 48, 40, 0)])
    if batch == "pictures":
        return [dataclasses.replace(one, images=[shown]), Prompt(text="Why?", images=[shown]), one]
    more = 2 if batch == "lengths" else 0
    return [one, Prompt(text="Where is it?", videos=[film(count + more, 72, 33, 10), film(count, 40, 64, 20)])]


@pytest.mark.parametrize("name", ["divprune", "fastv", "clasp"])
@pytest.mark.parametrize(("family", "batch"), BATCHES)
def test_a_batch_with_videos_equals_one_by_one(family: str, batch: str, name: str) -> None:
    prompts = prompts_of(family, batch)
    together, run = pruned(family, METHODS[name], FAMILIES[family].inputs(prompts))
    assert [sample.images for sample in run.trace.samples] == [len([*one.images, *one.videos]) for one in prompts]
    for row, prompt in enumerate(prompts):
        alone, single = pruned(family, METHODS[name], FAMILIES[family].inputs([prompt]))
        assert (together[row, -1] - alone[0, -1]).abs().max() < 1e-3, row
        kept = [stage.tolist() for stage in single.trace.samples[0].kept]
        assert [stage.tolist() for stage in run.trace.samples[row].kept] == kept, row


@pytest.mark.parametrize(("family", "batch"), BATCHES)
def test_dropping_equals_masking_in_a_batch_with_videos(family: str, batch: str) -> None:
    inputs = FAMILIES[family].inputs(prompts_of(family, batch))
    logits, run = pruned(family, dataclasses.replace(METHODS["fastv"], positions="original"), inputs, "eager")
    assert (logits[:, -1] - masked_logits(run, inputs)[:, -1]).abs().max() < 1e-4


@pytest.mark.parametrize("family", STACKING)
def test_videos_of_unequal_length_are_refused_as_a_batch_and_the_remedies_work(family: str, tmp_path: Path) -> None:
    """By the processor that :func:`clasp.load` returns. Evaluation samples equally many frames of every video, see
    `tests/evaluation/test_video.py`."""
    small, count, short = FAMILIES[family], FRAMES[family], FRAMES[family] // 2
    small.processor().save_pretrained(tmp_path)
    model = copy.copy(small.model())
    model.name_or_path = str(tmp_path)
    processor = load(model)[1]
    prompts = [Prompt(text="Why?", videos=[film(frames, 48, 40, frames)]) for frames in (count, short)]
    remedies = rf"these have {count}, {short} frames; .*num_frames={short}.* one prompt at"
    for own in (processor, copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        with pytest.raises(ValueError, match=remedies):
            small.inputs(prompts, own)

    for prompt, frames in zip(prompts, (count, short), strict=True):
        _, run = pruned(family, METHODS["fastv"], small.inputs([prompt], processor))
        assert run.trace.samples[0].visual_entering[0] // frames == (17 if family == "video_llava" else 9)
    texts = [processor.apply_chat_template(prompt.messages()) for prompt in prompts]
    films = [np.stack([np.asarray(frame) for frame in prompt.videos[0]]) for prompt in prompts]
    options: dict[str, Any] = {"do_sample_frames": True, "num_frames": short}
    sampled = processor(text=texts, videos=films, padding=True, return_tensors="pt", **options)
    assert sampled["pixel_values_videos"].shape[:2] == (2, short)
    _, run = pruned(family, METHODS["fastv"], sampled)
    assert [sample.images for sample in run.trace.samples] == [1, 1]

    processor.save_pretrained(tmp_path / "saved")
    again = type(AutoProcessor.from_pretrained(tmp_path / "saved").video_processor)
    assert again.__module__.startswith("transformers."), "what is saved is transformers' own"
