"""A method for tests that records what it is shown at its stages, and the prompts on which it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from cases import PROMPTS, placeholders, pruned
from families import FAMILIES, Prompt, picture
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.backbones.prompt import PromptReader
from clasp.budget import Schedule, Stage
from clasp.methods.base import Method
from clasp.methods.protocols import Selection, Span, State

Look = Callable[[State], Any]
TWO = Prompt(text=PROMPTS[1], images=[picture(91, 37, 1), picture(60, 100, 2)])
ONE = Prompt(text=PROMPTS[0], images=[picture(64, 64, 0)])


@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Keeps every other token at layer 1, and half of these at layer 3; what ``look`` returns goes into ``seen``.

    Other fields: what a method states about itself. ``within``: its scope; ``back``: its lookback; ``states``: the ViT
    layers that it reads; ``layers``: further decoder layers; ``listen``: its words; ``cuts``: its stages.
    """

    name: ClassVar[str] = "probe"
    look: Look
    within: str = "sample"
    back: int = 0
    states: tuple[int, ...] = ()
    listen: Span = "instruction"
    layers: tuple[int, ...] = ()
    cuts: tuple[int, ...] = (1, 3)
    seen: list[Any] = field(default_factory=list)
    ratio: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scope", self.within)
        object.__setattr__(self, "lookback", self.back)

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        stages = (Stage(cut, visual_tokens // 2**number) for number, cut in enumerate(self.cuts, 1))
        return Schedule(visual_tokens, layers, tuple(stages))

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return self.states

    def span(self) -> Span:
        return self.listen

    def decoder_states(self, cuts: Sequence[int]) -> tuple[int, ...]:
        return (*super().decoder_states(cuts), *self.layers)

    def select(self, state: State, keep: int) -> Selection:
        self.seen.append(self.look(state))
        return Selection(torch.arange(keep).expand(len(state.tokens()), -1) * (state.visual_tokens // keep))


def probed(family: str, prompts: list[Prompt], look: Look, **options: Any) -> list[Any]:
    """What a probe saw at each call."""
    probe = Probe(look=look, **options)
    pruned(family, probe, FAMILIES[family].inputs(prompts), "eager")
    return probe.seen


def visual_and_words(family: str, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Places of the placeholders and of the instruction's tokens in a batch of this prompt alone."""
    model, ids = FAMILIES[family].model("eager"), FAMILIES[family].inputs([prompt])["input_ids"][0]
    reader = PromptReader(FAMILIES[family].processor(), adapter_for(model).placeholders.values())
    return placeholders(model, ids).nonzero().squeeze(1), torch.tensor(reader.positions(ids.tolist()))
