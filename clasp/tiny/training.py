"""The stages of the tiny backbone's training, in order, each seeded and resumable from its checkpoint.

``see`` trains the vision tower on dense labels; ``read`` the decoder on label embeddings in place of visual tokens;
``align`` fits the projector to those embeddings; ``answer`` trains projector and decoder on the frozen features, first
on few tokens (every object patch and some background), at the end on all 576 without any dropping.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from clasp.tiny import STAGES
from clasp.tiny.answering import LabelEmbedding, answer_loss, choose_tokens
from clasp.tiny.attention import keep_memory, use_own, use_products
from clasp.tiny.benchmarks import build
from clasp.tiny.features import Gallery
from clasp.tiny.loop import Plan, Trainer, device, write_json
from clasp.tiny.model import VISUAL_TOKENS, build_config, build_model, build_tokenizer, export
from clasp.tiny.packing import Packer
from clasp.tiny.scoring import score
from clasp.tiny.seeing import PatchHead, picture_batch, seeing_loss

_READ_NOISE = 0.1  # standard deviation added to the label embeddings, whose own is about 1
_EASY_SHARE = 6  # one image in so many of the answer stage is easy-VQA's


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights.

    Args:
        windowed: share of ``see`` during which attention stays inside quarters of the picture.
        phases: of ``answer``: (its steps, visual tokens, images per batch, question tokens per image); the last one
            lasts to the end of the stage.
        scenes: train scenes that ``read`` draws from.
        world, easy: pictures of each kind whose features are kept for ``align`` and ``answer``.
        fresh: step of ``answer`` from which scenes are drawn anew, without end: counts are learnt by heart otherwise.
    """

    seed: int = 0
    see: Plan = field(default_factory=lambda: Plan(steps=1200, rate=2e-3, warmup=60, decay=400))
    windowed: float = 0.75
    see_batch: int = 16
    read: Plan = field(default_factory=lambda: Plan(steps=850, rate=2e-3, warmup=60, decay=100, boost=3.0))
    read_tokens: int = 128
    read_batch: int = 24
    align: Plan = field(default_factory=lambda: Plan(steps=400, rate=3e-3, warmup=20, decay=200))
    answer: Plan = field(default_factory=lambda: Plan(steps=2250, rate=1.5e-3, warmup=60, decay=1200, boost=3.0))
    phases: tuple[tuple[int, int, int, int], ...] = (
        (150, 128, 24, 192),
        (350, 288, 16, 192),
        (1100, 192, 16, 192),
        (100, VISUAL_TOKENS, 16, 192),
        (350, 192, 16, 192),
        (0, VISUAL_TOKENS, 16, 192),
    )
    scenes: int = 12_000
    world: int = 8_000
    easy: int = 2_000
    fresh: int = 1_700


class Course:
    """One training run: a fresh model that passes through the stages, with checkpoints in ``folder``."""

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        keep_memory()
        self.folder, self.recipe = folder, recipe or Recipe()
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.model: LlavaForConditionalGeneration = build_model(build_config(self.tokenizer), self.recipe.seed)
        self.model.to(device())
        use_products(self.model)
        width = self.model.config.vision_config.hidden_size
        self.head = PatchHead(width).to(device())
        words = self.model.model.language_model.embed_tokens
        self.labels = LabelEmbedding(words, self.tokenizer).to(device())
        self.packer = Packer(self.tokenizer)
        self.scenes = Gallery(self.recipe.scenes, 0)
        self.gallery = Gallery(self.recipe.world, self.recipe.easy)
        self.unseen = Gallery(1 << 30, self.recipe.easy)

    def trainer(self, stage: str) -> Trainer:
        """The stage's trainer with its checkpoint, if any, taken over into the model."""
        llava = self.model.model
        modules: dict[str, list[torch.nn.Module]] = {
            "see": [llava.vision_tower, self.head],
            "read": [llava.language_model, self.model.lm_head, self.labels],
            "align": [llava.multi_modal_projector],
            "answer": [llava.multi_modal_projector, llava.language_model, self.model.lm_head],
        }
        if stage not in modules:
            raise ValueError(f"Unknown stage {stage!r}: use one of {', '.join(STAGES)}.")
        trainer = Trainer(stage, modules[stage], getattr(self.recipe, stage), self.folder)
        trainer.resume()
        return trainer

    def run(self, stage: str, until: int | None = None) -> Trainer:
        """Trains ``stage`` to its end (or to step ``until``) and returns its trainer, for the log."""
        trainer = self.trainer(stage)
        end = trainer.plan.steps if until is None else until
        if trainer.step < end:
            if stage in ("align", "answer"):
                self._open_features()
            trainer.run(
                {"see": self._see, "read": self._read, "align": self._align, "answer": self._answer}[stage], end
            )
        return trainer

    def _open_features(self) -> None:
        tower = self.model.model.vision_tower.state_dict()
        digest = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in tower.values()))
        self.gallery.compute(self.model, self.folder / "features.bin", digest.hexdigest()[:16])

    def _rng(self, stage: str, step: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, STAGES.index(stage), step])

    def _see(self, step: int) -> tuple[Tensor, dict[str, float]]:
        recipe = self.recipe
        split = 2 if step < recipe.windowed * recipe.see.steps else 1
        pixels, labels = picture_batch(recipe.seed, step, recipe.see_batch)
        return seeing_loss(self.model, self.head, pixels, labels, seed=step, split=split)

    def _read(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = self._rng("read", step)
        numbers = rng.integers(self.recipe.scenes, size=self.recipe.read_batch)
        labels = self.scenes.labels(numbers)
        kept = choose_tokens(labels[:, 0] > 0, self.recipe.read_tokens, step)
        rows = self.packer.pack([self.scenes.questions(int(number), rng, 13) for number in numbers], 192)
        shown = labels.gather(2, kept[:, None].expand(-1, labels.shape[1], -1)).to(device())
        with torch.autocast(device().type, dtype=torch.bfloat16):
            visual = self.labels(shown)
            noise = torch.randn(visual.shape, generator=torch.Generator().manual_seed(step))
            return answer_loss(self.model, self.packer, visual + _READ_NOISE * noise.to(device()), kept, rows)

    def _align(self, step: int) -> tuple[Tensor, dict[str, float]]:
        numbers = self._rng("align", step).integers(self.recipe.world, size=16)
        labels = self.gallery.labels(numbers)
        kept = choose_tokens(labels[:, 0] > 0, 192, step)
        shown = labels.gather(2, kept[:, None].expand(-1, labels.shape[1], -1)).to(device())
        visual = self.model.model.multi_modal_projector(self.gallery.features(self.model, numbers, kept).float())
        with torch.no_grad():
            wanted = self.labels(shown)
        return functional.mse_loss(visual, wanted), {"spread": wanted.var().item()}

    def _answer(self, step: int) -> tuple[Tensor, dict[str, float]]:
        tokens, batch, length = self.phase(step)
        gallery = self.gallery if step < self.recipe.fresh else self.unseen
        rng = self._rng("answer", step)
        numbers = rng.integers(gallery.world, size=batch)
        if gallery.easy:
            easy = numbers[::_EASY_SHARE]
            numbers[::_EASY_SHARE] = gallery.world + rng.integers(len(gallery.easy), size=len(easy))
        if tokens < VISUAL_TOKENS:
            kept = choose_tokens(gallery.labels(numbers)[:, 0] != 0, tokens, step)
        else:
            kept = torch.arange(VISUAL_TOKENS).expand(batch, -1)
        rows = self.packer.pack([gallery.questions(int(number), rng, length // 14) for number in numbers], length)
        with torch.autocast(device().type, dtype=torch.bfloat16):
            visual = self.model.model.multi_modal_projector(gallery.features(self.model, numbers, kept))
            return answer_loss(self.model, self.packer, visual, kept, rows)

    def phase(self, step: int) -> tuple[int, int, int]:
        """(visual tokens, images per batch, question tokens per image) at a step of the answer stage."""
        begin = 0
        for steps, tokens, batch, length in self.recipe.phases[:-1]:
            begin += steps
            if step < begin:
                return tokens, batch, length
        return self.recipe.phases[-1][1:]


def finish(course: Course, out: Path, log: Path, data: Path, limit: int | None = None, note: str = "") -> None:
    """Exports the model to ``out``, scores it on the test sets below ``data`` and writes the summary to ``log``.

    ``note`` is kept in the summary: what the recipe does not tell, such as a plan changed between two resumptions.
    """
    use_own(course.model)
    export(course.model, course.tokenizer, out)
    table = score(out, build(data), limit)
    summary = {
        "machine": f"{_processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "parameters": sum(value.numel() for value in course.model.parameters()),
        "seed": course.recipe.seed,
        "phases": [dict(zip(("steps", "tokens", "images", "length"), p, strict=True)) for p in course.recipe.phases],
        "pictures": {"scenes": course.recipe.scenes, "world": course.recipe.world, "easy": course.recipe.easy},
        "stages": [course.trainer(stage).summary() for stage in STAGES],
        "note": note,
        "limit": limit,
        "accuracy": {name: {key: round(value, 2) for key, value in row.items()} for name, row in table.items()},
    }
    write_json(log, summary)


def _processor_name() -> str:
    """The GPU's name where training ran on one, else the CPU's model name."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
