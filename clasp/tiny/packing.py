"""Packs several questions behind one image: each sees the image's prefix and itself, at the positions of inference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clasp.policy import CATEGORIES
from clasp.tiny.easy import EasyImage, easy_category
from clasp.tiny.model import IMAGE, VISUAL_TOKENS, prompt
from clasp.tiny.questions import ask
from clasp.tiny.world import Scene

IGNORE = -100
_TRIES = 3
_ROUND = (*CATEGORIES, "counting", "counting", "counting", "counting", "counting", "spatial")

Asked = tuple[str, str, str]
"""(group, question, answer); the group is a category of the world, or ``easy``."""


class Packer:
    """Turns lists of questions into token rows; every text is tokenized once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        whole = tokenizer(prompt("what is it?"))["input_ids"]
        start = whole.index(image)
        self.before: list[int] = whole[:start]  # <s> USER : _
        self.after: list[int] = whole[start + 1 : start + 2]  # the line break
        self.first_position = len(self.before) + VISUAL_TOKENS + len(self.after)
        self.pad = int(tokenizer.pad_token_id)
        self._tokenizer, self._skip = tokenizer, start + 2
        self._row = lru_cache(maxsize=100_000)(self._encode)

    def _encode(self, question: str, answer: str) -> tuple[tuple[int, ...], int]:
        """The tokens from the question's first word to the end of sequence, and where the answer starts in them."""
        asked = self._tokenizer(prompt(question))["input_ids"][self._skip :]
        said = self._tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        return (*asked, *said, int(self._tokenizer.eos_token_id)), len(asked)

    def pack(self, images: list[list[Asked]], length: int) -> Rows:
        """``(batch, length)`` rows; questions that do not fit into their image's row any more are left out."""
        shape = (len(images), length)
        tokens = np.full(shape, self.pad)
        positions = np.zeros(shape, dtype=np.int64)
        segments = np.zeros(shape, dtype=np.int64)  # 0 is padding
        targets = np.full(shape, IGNORE)
        groups = np.full(shape, -1)
        for row, asked in enumerate(images):
            filled = 0
            for number, (group, question, answer) in enumerate(asked, start=1):
                ids, split = self._row(question, answer)
                end = filled + len(ids) - 1  # the end of sequence is only predicted, never read
                if end > length:
                    break
                tokens[row, filled:end] = ids[:-1]
                positions[row, filled:end] = self.first_position + np.arange(end - filled)
                segments[row, filled:end] = number
                targets[row, filled + split - 1 : end] = ids[split:]
                groups[row, filled + split - 1] = GROUPS.index(group)
                filled = end
        return Rows(*(torch.from_numpy(array) for array in (tokens, positions, segments, targets, groups)))


GROUPS = (*CATEGORIES, "easy")


@dataclass(frozen=True)
class Rows:
    """Packed questions, each tensor ``(batch, length)``.

    ``targets`` holds the token to be said next, IGNORE outside answers; ``groups`` marks where each answer starts with
    its group's number, -1 elsewhere.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor
    groups: Tensor


def attention_bias(prefix: int, segments: Tensor, dtype: torch.dtype) -> Tensor:
    """What may look where, as ``(batch, 1, prefix + length, prefix + length)``: 0 where it may, else the least number.

    The prefix is causal; a question's token sees the whole prefix, and itself and what precedes it in its own question.
    """
    batch, length = segments.shape
    total = prefix + length
    allowed = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril().expand(batch, -1, -1).clone()
    allowed[:, prefix:, prefix:] &= segments[:, :, None] == segments[:, None, :]
    bias = torch.zeros(batch, 1, total, total, dtype=dtype, device=segments.device)
    return bias.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)


def world_questions(picture: Scene, rng: np.random.Generator, count: int) -> list[Asked]:
    """``count`` questions about a scene; the categories take turns in random order, the harder ones more than once."""
    asked: list[Asked] = []
    while len(asked) < count:
        for number in rng.permutation(len(_ROUND)):
            category = _ROUND[number]
            found = next((q for q in (ask(picture, category, rng) for _ in range(_TRIES)) if q), None)
            if found:
                asked.append((category, found.text, found.answer))
    return asked[:count]


def easy_questions(image: EasyImage, rng: np.random.Generator) -> list[Asked]:
    """All questions about an easy-VQA image, shuffled, those with an open answer first."""
    order = [image.questions[number] for number in rng.permutation(len(image.questions))]
    order.sort(key=lambda pair: easy_category(pair[0]) != "attribute")
    return [("easy", question, answer) for question, answer in order]
