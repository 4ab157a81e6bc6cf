"""Packs several questions after one image: each attends to the image's prefix and to itself, at inference positions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clasp.tiny.training.images import GROUPS, IGNORE, Asked
from clasp.tiny.training.model import IMAGE, prompt


class Packer:
    """Turns lists of questions into token rows; each text is tokenized only once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        whole = tokenizer(prompt("what is it?"))["input_ids"]
        start = whole.index(image)
        self.before: list[int] = whole[:start]  # <s> USER : _
        self.after: list[int] = whole[start + 1 : start + 2]  # the line break
        self.pad = int(tokenizer.pad_token_id)
        self._tokenizer, self._skip = tokenizer, start + 2
        self._row = lru_cache(maxsize=100_000)(self._encode)

    def _encode(self, question: str, answer: str) -> tuple[tuple[int, ...], int]:
        """The tokens from the question's first word to the end of sequence, and the index of the answer's start."""
        asked = self._tokenizer(prompt(question))["input_ids"][self._skip :]
        said = self._tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        return (*asked, *said, int(self._tokenizer.eos_token_id)), len(asked)

    def pack(self, images: list[list[Asked]], length: int) -> Rows:
        """``(batch, length)`` rows; questions that no longer fit into their image's row are left out."""
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
                end = filled + len(ids) - 1  # the end of sequence is only a target, never an input
                if end > length:
                    break
                tokens[row, filled:end] = ids[:-1]
                positions[row, filled:end] = np.arange(end - filled)
                segments[row, filled:end] = number
                targets[row, filled + split - 1 : end] = ids[split:]
                groups[row, filled + split - 1] = GROUPS.index(group)
                filled = end
        return Rows(*(torch.from_numpy(array) for array in (tokens, positions, segments, targets, groups)))


@dataclass(frozen=True)
class Rows:
    """Packed questions, each tensor ``(batch, length)``.

    ``positions`` count from each question's own first token.
    ``targets`` holds the next token, IGNORE outside answers. ``groups`` holds the group's number at the start of each
    answer, -1 elsewhere.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    targets: Tensor
    groups: Tensor


def attention_bias(prefix: int, segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Attention bias ``(batch, 1, prefix + length, prefix + length)``: 0 where allowed, else the dtype's minimum.

    The prefix is causal. A question's token attends to the whole prefix, to itself and to earlier tokens of its
    question.
    """
    batch, length = segments.shape
    total = prefix + length
    allowed = torch.ones(total, total, dtype=torch.bool, device=segments.device).tril().expand(batch, -1, -1).clone()
    allowed[:, prefix:, prefix:] &= segments[:, :, None] == segments[:, None, :]
    bias = torch.zeros(batch, 1, total, total, dtype=dtype, device=segments.device)
    return bias.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)
