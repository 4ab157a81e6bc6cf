"""Measures the tiny backbone with plain transformers: greedy answers on the benchmark files.

Three questions: how well it answers, how well it answers about a blank picture, and what is left of it when all but a
random subset of its visual tokens are dropped before decoder layer 0 (original rotary positions are kept).
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from clasp.tiny.benchmarks import NAMES
from clasp.tiny.drawing import blank
from clasp.tiny.model import IMAGE, VISUAL_TOKENS, prompt


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


RANDOM_COUNTS = (192, 128, 64, 16)
_ANSWER_TOKENS = 6


class Answers:
    """Greedy answers of a LLaVA model saved at ``folder``."""

    def __init__(self, folder: Path) -> None:
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model: LlavaForConditionalGeneration = model.to(device()).eval()
        self.processor: LlavaProcessor = AutoProcessor.from_pretrained(folder)
        self.image_token = self.model.config.image_token_id

    @torch.no_grad()
    def see(self, images: list[Image.Image]) -> Tensor:
        """The projected visual tokens ``(batch, 576, width)`` of the images."""
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"].to(device())
        with torch.autocast(device().type, dtype=torch.bfloat16):
            return torch.stack(list(self.model.model.get_image_features(pixels).pooler_output))

    @torch.no_grad()
    def say(self, features: Tensor, questions: list[str], keep: int | None, seed: int) -> list[str]:
        """One answer per question, from ``keep`` random visual tokens of its image (None: all of them)."""
        texts = [prompt(question).replace(IMAGE, IMAGE * VISUAL_TOKENS) for question in questions]
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt").to(device())
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.autocast(device().type, dtype=torch.bfloat16):
            embeds = self.model.model.language_model.embed_tokens(ids)
            embeds[ids == self.image_token] = features.flatten(0, 1).to(embeds.dtype)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            if keep is not None:
                left = self._left(ids, keep, seed)  # (batch, kept length)
                embeds = embeds.gather(1, left[..., None].expand(-1, -1, embeds.shape[-1]))
                positions, mask = positions.gather(1, left), mask.gather(1, left)
            said = self._greedy(embeds, positions, mask)
        return [text.strip() for text in self.processor.tokenizer.batch_decode(said, skip_special_tokens=True)]

    def _left(self, ids: Tensor, keep: int, seed: int) -> Tensor:
        """Indices of the tokens that stay: all text, and ``keep`` of each sample's visual tokens, drawn per sample."""
        rows = []
        rng = np.random.default_rng(seed)
        for row in ids:
            visual = (row == self.image_token).nonzero()[:, 0]
            chosen = torch.from_numpy(rng.permutation(VISUAL_TOKENS)[:keep]).to(visual.device)
            stays = row != self.image_token
            stays[visual[chosen]] = True
            rows.append(stays.nonzero()[:, 0])
        return torch.stack(rows)

    def _greedy(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        decoder, eos = self.model.model.language_model, self.model.generation_config.eos_token_id
        cache, said = None, []
        done = torch.zeros(embeds.shape[0], dtype=torch.bool, device=embeds.device)
        for _ in range(_ANSWER_TOKENS):
            step = decoder(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            token = self.model.lm_head(step.last_hidden_state[:, -1]).argmax(-1)
            token = token.masked_fill(done, eos)
            done |= token == eos
            said.append(token)
            if done.all():
                break
            cache = step.past_key_values
            embeds = decoder.embed_tokens(token)[:, None]
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        return torch.stack(said, dim=1)


def score(
    folder: Path,
    benchmarks: dict[str, Path],
    limit: int | None = None,
    batch: int = 32,
    seed: int = 0,
    counts: tuple[int, ...] = RANDOM_COUNTS,
) -> dict[str, dict[str, float]]:
    """Accuracy in percent per benchmark: ``all`` tokens, ``blank`` picture, ``random_<count>`` tokens.

    ``normalized`` is the world's mean over categories relative to ``all``, in percent, per random count.
    """
    answers = Answers(folder)
    empty = answers.see([Image.fromarray(blank())])
    table: dict[str, dict[str, float]] = {}
    for name, path in benchmarks.items():
        settings: list[tuple[str, int | None]] = [("all", None), ("blank", None)]
        settings += [(f"random_{count}", count) for count in counts]
        rights: dict[str, list[bool]] = {label: [] for label, _ in settings}
        for number, (images, questions, wanted) in enumerate(tqdm(_batches(path, limit, batch), desc=name)):
            features = answers.see(images)
            for label, keep in settings:
                shown = empty.expand(len(images), -1, -1) if label == "blank" else features
                said = answers.say(shown, questions, keep, seed=seed + number)
                rights[label] += [one.lower() == other.lower() for one, other in zip(said, wanted, strict=True)]
        table[name] = {label: 100 * float(np.mean(values)) for label, values in rights.items()}
    world = [name for name in NAMES if name.startswith("world_") and name in table]
    if world:
        labels = [f"random_{count}" for count in counts]
        table["world_normalized"] = {
            label: float(np.mean([100 * table[name][label] / table[name]["all"] for name in world])) for label in labels
        }
    return table


def _batches(path: Path, limit: int | None, size: int) -> Iterator[tuple[list[Image.Image], list[str], list[str]]]:
    rows = pq.read_table(path).to_pylist()[:limit]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        images = [Image.open(BytesIO(row["image"]["bytes"])).convert("RGB") for row in part]
        yield images, [row["question"] for row in part], [row["answer"] for row in part]
