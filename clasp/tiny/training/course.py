"""The stages of the small backbone's training, in order, each seeded and resumable from its checkpoint.

``see`` trains a vision tower of 6 layers and the text tower on captions and dense labels, with windowed attention.
``refine`` deepens the tower to 12 layers and trains on whole images. ``read`` trains a decoder of 8 layers on label
embeddings in place of visual tokens. ``align`` fits the projector to those embeddings. ``answer`` trains projector and
decoder on the frozen features. ``deepen`` deepens the decoder to 32 layers and continues, finally with all 576 tokens.
``gather`` trains the towers so that the class token attends to everything in the image, while the patch features stay
close to their old values. ``withdraw`` trains the decoder with visual tokens removed at a layer, so that it reads them
early.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from clasp.tiny.training import STAGES
from clasp.tiny.training.answering import LabelEmbedding, answer_loss, choose_places, choose_tokens
from clasp.tiny.training.attention import keep_memory, use_products
from clasp.tiny.training.deepening import deepen
from clasp.tiny.training.features import Gallery
from clasp.tiny.training.gathering import gathering_loss
from clasp.tiny.training.images import Batch, easy_train, image_batch, plain_questions_of, questions_of
from clasp.tiny.training.loop import Plan, Trainer, device
from clasp.tiny.training.model import (
    DECODER_LAYERS,
    VISUAL_TOKENS,
    build_clip,
    build_config,
    build_model,
    build_tokenizer,
)
from clasp.tiny.training.packing import Packer
from clasp.tiny.training.seeing import PatchHead, seeing_loss

_READ_NOISE = 0.1  # standard deviation of the noise on label embeddings, whose own is about 1
_EASY_SHARE = 12  # one image in 12 of the answer stages is from easy-VQA
_PLAIN_SHARE = 4  # one image in 4 gets lists and plain questions in steps that mix them with the benchmarks' questions
_TOKENS_A_QUESTION = 16
_WHOLE = 4  # one batch in 4 keeps its visual tokens in all decoder layers in ``withdraw``


@dataclass(frozen=True)
class Phase:
    """A part of an answer stage: its steps, visual tokens, images per batch and question tokens per image."""

    steps: int
    tokens: int
    images: int
    length: int = 192


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the trained weights.

    Args:
        see_layers: layers of the vision tower before ``refine``.
        shallow: layers of the decoder before ``deepen``.
        read_plain: ``read`` uses only lists and plain questions before the first of these steps, none up to the second,
            and then for every fourth image.
        answer_phases, deepen_phases: consecutive phases; the last one lasts to the end of the stage.
        scenes: train scenes that ``read`` draws from.
        world, easy: number of images of each kind whose features are stored for ``align`` and ``answer``.
        withdraw_layers: minimum and maximum number of layers with visual tokens in ``withdraw``; every fourth batch has
            them in all layers.
        fresh: step of ``deepen`` from which every scene is new; otherwise the decoder memorizes counts.
    """

    seed: int = 0
    see: Plan = field(default_factory=lambda: Plan(steps=2400, rate=2e-3, warmup=80, decay=500, boost=2.0))
    see_batch: int = 32
    see_layers: int = 6
    refine: Plan = field(default_factory=lambda: Plan(steps=500, rate=1.5e-3, warmup=40, decay=400, boost=2.0))
    refine_batch: int = 24
    shallow: int = 8
    read: Plan = field(default_factory=lambda: Plan(steps=2200, rate=2e-3, warmup=100, decay=500))
    read_plain: tuple[int, int] = (1000, 1400)
    read_tokens: int = 144
    read_batch: int = 16
    align: Plan = field(default_factory=lambda: Plan(steps=400, rate=3e-3, warmup=20, decay=200))
    answer: Plan = field(default_factory=lambda: Plan(steps=2200, rate=1.5e-3, warmup=60, decay=400))
    answer_phases: tuple[Phase, ...] = (Phase(0, 192, 16),)
    deepen: Plan = field(default_factory=lambda: Plan(steps=600, rate=1e-3, warmup=60, decay=450))
    deepen_phases: tuple[Phase, ...] = (Phase(250, 192, 16), Phase(0, VISUAL_TOKENS, 8))
    gather: Plan = field(default_factory=lambda: Plan(steps=300, rate=1e-3, warmup=20, decay=200))
    gather_batch: int = 16
    withdraw: Plan = field(default_factory=lambda: Plan(steps=600, rate=1e-3, warmup=30, decay=300))
    withdraw_phase: Phase = field(default_factory=lambda: Phase(0, VISUAL_TOKENS, 8))
    withdraw_layers: tuple[int, int] = (12, 20)
    scenes: int = 16_000
    world: int = 14_000
    easy: int = 1_500
    fresh: int = 250

    def phase(self, stage: str, step: int) -> Phase:
        """The phase of ``answer``, ``deepen`` or ``withdraw`` that a step belongs to."""
        if stage == "withdraw":
            return self.withdraw_phase
        phases = self.answer_phases if stage == "answer" else self.deepen_phases
        begin = 0
        for phase in phases[:-1]:
            begin += phase.steps
            if step < begin:
                return phase
        return phases[-1]


class Course:
    """One training run: a new model that passes through the stages, with checkpoints in ``folder``."""

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        keep_memory()
        self.folder, self.recipe = folder, recipe or Recipe()
        self.tokenizer: PreTrainedTokenizerFast = build_tokenizer()
        self.small_clip = build_clip(self.tokenizer, self.recipe.see_layers, self.recipe.seed).to(device())
        self.clip: CLIPModel = build_clip(self.tokenizer, seed=self.recipe.seed).to(device())
        use_products(self.small_clip.vision_model)
        self.head = PatchHead(self.clip.config.vision_config.hidden_size).to(device())
        self._tower_before: nn.Module | None = None
        self.model = self._llava(self.recipe.shallow)
        self.deep = self._llava(DECODER_LAYERS)
        self.labels = LabelEmbedding(self.model.model.language_model.embed_tokens, self.tokenizer).to(device())
        self.packer = Packer(self.tokenizer)
        self._painter: ProcessPoolExecutor | None = None
        self._painted: dict[int, Future[Batch]] = {}
        self.scenes = Gallery(range(self.recipe.scenes))
        easy = min(self.recipe.easy, len(easy_train()))
        self.gallery = Gallery(range(-easy, self.recipe.world))

    def _llava(self, layers: int) -> LlavaForConditionalGeneration:
        model = build_model(build_config(self.tokenizer, layers), self.recipe.seed).to(device())
        model.model.vision_tower = self.clip.vision_model
        use_products(model.model.vision_tower, model.model.language_model)
        return model

    def trainer(self, stage: str) -> Trainer:
        """The stage's trainer; its checkpoint, if any, is loaded into the model."""
        modules: dict[str, list[nn.Module]] = {
            "see": [self.small_clip, self.head],
            "refine": [self.clip, self.head],
            "read": [*_decoder(self.model), self.labels],
            "align": [self.model.model.multi_modal_projector],
            "answer": [self.model.model.multi_modal_projector, *_decoder(self.model)],
            "deepen": [self.deep.model.multi_modal_projector, *_decoder(self.deep)],
            "gather": [self.clip],
            "withdraw": [self.deep.model.multi_modal_projector, *_decoder(self.deep)],
        }
        if stage not in modules:
            raise ValueError(f"Unknown stage {stage!r}: use one of {', '.join(STAGES)}.")
        trainer = Trainer(stage, modules[stage], getattr(self.recipe, stage), self.folder)
        if not trainer.resume() and stage == "refine":
            deepen(self.small_clip, self.clip, "vision_model.encoder.layers")
        elif trainer.step == 0 and stage == "deepen":
            deepen(self.model, self.deep, "model.language_model.layers")
        return trainer

    def run(self, stage: str, until: int | None = None) -> Trainer:
        """Trains ``stage`` to its end (or to step ``until``) and returns its trainer, for the log."""
        trainer = self.trainer(stage)
        end = trainer.plan.steps if until is None else until
        if trainer.step < end:
            if stage in ("align", "answer", "deepen"):
                self._open_features()
            steps = {
                "see": self._see,
                "refine": self._refine,
                "read": self._read,
                "align": self._align,
                "gather": self._gather,
            }
            trainer.run(steps.get(stage, lambda step: self._answer(stage, step)), end)
            self._painted.clear()
        return trainer

    def _open_features(self) -> None:
        tower = self.clip.vision_model.state_dict()
        digest = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in tower.values()))
        self.gallery.compute(self.model, self.folder / "features.bin", digest.hexdigest()[:16])

    def _rng(self, stage: str, step: int) -> np.random.Generator:
        return np.random.default_rng([self.recipe.seed, STAGES.index(stage), step])

    def _see(self, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = self._images(step, 0, self.recipe.see_batch)
        return seeing_loss(self.small_clip, self.head, self.tokenizer, batch, seed=step, windowed=True)

    def _refine(self, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = self._images(step, 1, self.recipe.refine_batch)
        return seeing_loss(self.clip, self.head, self.tokenizer, batch, seed=step)

    def _gather(self, step: int) -> tuple[Tensor, dict[str, float]]:
        if self._tower_before is None:
            self._tower_before = self._refined_tower()
        batch = self._images(step, STAGES.index("gather"), self.recipe.gather_batch)
        return gathering_loss(self.clip, self._tower_before, self.tokenizer, batch)

    def _refined_tower(self) -> nn.Module:
        """The vision tower as it was after ``refine``, independent of the progress of ``gather``."""
        clip = build_clip(self.tokenizer, seed=self.recipe.seed).to(device())
        Trainer("refine", [clip, self.head], self.recipe.refine, self.folder).resume()
        use_products(clip.vision_model)
        return clip.vision_model.requires_grad_(False)

    def _images(self, step: int, stage: int, size: int) -> Batch:
        """The batch of ``step``, painted by another process while the previous step was computed."""
        if self._painter is None:
            self._painter = ProcessPoolExecutor(1, get_context("spawn"))
        for ahead in (step, step + 1):
            if ahead not in self._painted:
                self._painted[ahead] = self._painter.submit(image_batch, [self.recipe.seed, stage, ahead], size)
        return self._painted.pop(step).result()

    def _read(self, step: int) -> tuple[Tensor, dict[str, float]]:
        rng = self._rng("read", step)
        numbers = [int(n) for n in rng.integers(self.recipe.scenes, size=self.recipe.read_batch)]
        visual, kept = self._label_embeddings(self.scenes, numbers, self.recipe.read_tokens, step)
        noise = torch.randn(visual.shape, generator=torch.Generator().manual_seed(step)).to(device())
        alone, again = self.recipe.read_plain
        every = 1 if step < alone else _PLAIN_SHARE if step >= again else 0
        return self._loss(self.model, visual + _READ_NOISE * noise, kept, numbers, rng, step, 192, every)

    def _label_embeddings(self, gallery: Gallery, numbers: list[int], tokens: int, seed: int) -> tuple[Tensor, Tensor]:
        """Label embeddings ``(batch, tokens, width)`` of selected patches, and their indices ``(batch, tokens)``."""
        labels = gallery.labels(numbers)
        kept = choose_tokens(labels[:, 0] != 0, tokens, seed)
        shown = labels.gather(2, kept[:, None].expand(-1, labels.shape[1], -1))
        return self.labels(shown.to(device())), kept

    def _align(self, step: int) -> tuple[Tensor, dict[str, float]]:
        numbers = [int(n) for n in self._rng("align", step).integers(self.recipe.world, size=16)]
        with torch.no_grad():
            wanted, kept = self._label_embeddings(self.gallery, numbers, 192, step)
        visual = self.model.model.multi_modal_projector(self.gallery.features(self.model, numbers, kept).float())
        return functional.mse_loss(visual, wanted), {"spread": wanted.var().item()}

    def _answer(self, stage: str, step: int) -> tuple[Tensor, dict[str, float]]:
        phase, rng = self.recipe.phase(stage, step), self._rng(stage, step)
        fresh = stage == "withdraw" or (stage == "deepen" and step >= self.recipe.fresh)
        numbers = [int(n) for n in rng.integers(1 << 30 if fresh else self.recipe.world, size=phase.images)]
        easy = -self.gallery.numbers[0]
        if easy > 0:
            numbers[::_EASY_SHARE] = [-1 - int(rng.integers(easy)) for _ in numbers[::_EASY_SHARE]]
        covered = self.gallery.labels(numbers)[:, 0] != 0
        kept = choose_tokens(covered, phase.tokens, step)
        model = self.model if stage == "answer" else self.deep
        with torch.autocast(device().type, dtype=torch.bfloat16):
            features = self.gallery.features(model, numbers, kept, stage != "withdraw")  # gather changed the tower
            visual = model.model.multi_modal_projector(features)
        every = _PLAIN_SHARE if stage == "answer" else 0
        withdrawn = DECODER_LAYERS
        if stage == "withdraw" and step % _WHOLE != 0:
            first, last = self.recipe.withdraw_layers
            withdrawn = int(rng.integers(first, last + 1))
        return self._loss(model, visual, kept, numbers, rng, step, phase.length, every, withdrawn)

    def _loss(
        self,
        model: LlavaForConditionalGeneration,
        visual: Tensor,
        kept: Tensor,
        numbers: list[int],
        rng: np.random.Generator,
        seed: int,
        length: int,
        plain_every: int,
        withdrawn: int = DECODER_LAYERS,
    ) -> tuple[Tensor, dict[str, float]]:
        count = length // _TOKENS_A_QUESTION + 1
        asked = [
            plain_questions_of(number, rng, count)
            if plain_every and row % plain_every == plain_every - 1 and number >= 0
            else questions_of(number, rng, count)
            for row, number in enumerate(numbers)
        ]
        rows = self.packer.pack(asked, length)
        orders, places, ends = choose_places(kept, seed)
        visual = visual.gather(1, orders[..., None].expand(-1, -1, visual.shape[-1]).to(visual.device))
        with torch.autocast(device().type, dtype=torch.bfloat16):
            return answer_loss(model, self.packer, visual, places, ends, rows, withdrawn)


def _decoder(model: LlavaForConditionalGeneration) -> list[nn.Module]:
    return [model.model.language_model, model.lm_head]
