"""What the engine is tested on: every method, and a LLaVA with random weights, small enough for exact checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from clasp.budget import Schedule, Stage
from clasp.methods.base import Method, Selection, State
from clasp.methods.clasp import CLASP
from clasp.methods.fastv import FastV
from clasp.methods.random import Random
from clasp.methods.visionzip import VisionZip

SIDE = 8
VISUAL = SIDE * SIDE
LAYERS = 8
PROMPTS = (
    "What color is the circle?",
    "How many red shapes are there in the picture?",
    "Is there a star left of the blue square?",
)

# The shared matrix: every method, pruned to about a quarter. A new method is one line here.
METHODS: dict[str, Method] = {
    "random": Random(tokens=16),
    "fastv": FastV(tokens=20),
    "fastv-late": FastV(tokens=40, layer=4),
    "visionzip": VisionZip(tokens=16),
    "visionzip-no-cls": VisionZip(tokens=16, with_cls=False, positions="original"),
    "clasp": CLASP(tokens=20, router="keyword"),
    "clasp-farthest": CLASP(tokens=20, router="keyword", completion="farthest_point", fusion="balanced"),
    "clasp-contiguous": CLASP(tokens=20, router="keyword", positions="contiguous"),
    "clasp-from-0": CLASP(tokens=20, router="keyword", stage_layers=(0, 3, 6)),
}


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """Test method: keeps the given places, whatever the input, so that only the engine is under test."""

    name: ClassVar[str] = "fixed"
    stages: tuple[tuple[int, tuple[int, ...]], ...] = field(default=())
    tokens: int | None = 1

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        return Schedule(visual_tokens, layers, tuple(Stage(layer, len(kept)) for layer, kept in self.stages))

    def select(self, state: State, keep: int) -> Selection:
        kept = dict(self.stages)[state.stage.layer]
        return Selection(torch.tensor(kept).expand(len(state.tokens()), -1))


def small_llava(attention: str) -> Any:
    """The tiny backbone's configuration, fewer visual tokens and layers, random weights large enough to matter."""
    from transformers import AutoConfig, LlavaForConditionalGeneration

    from clasp.tiny import directory

    config = AutoConfig.from_pretrained(directory())
    config.vision_config.image_size = 8 * SIDE
    config.text_config.num_hidden_layers = LAYERS
    config.text_config.num_key_value_heads = 2
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if "embed" in name else parameter[0].numel() ** -0.5)
    model.generation_config.eos_token_id = None  # an untrained model's stops mean nothing; every step shall count
    return model.eval()
