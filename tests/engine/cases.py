"""Shared parts of the engine's tests: every method, inputs of the small LLaVA, recorded calls, and the oracle: forwards
in which tokens are masked in place of dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from families import FAMILIES, Prompt, picture
from torch import Tensor, nn
from transformers.cache_utils import QuantizedLayer

from clasp.backbones import adapter_for
from clasp.budget import Schedule, Stage
from clasp.methods import get
from clasp.methods.base import Method
from clasp.methods.protocols import Selection, State

LLAVA = FAMILIES["llava"]
VISUAL, LAYERS = 64, 8
"""Visual tokens and decoder layers of the small LLaVA."""
PROMPTS = (
    "What color is the circle?",
    "How many red shapes are there in the picture?",
    "Is there a star left of the blue square?",
)


def llava_inputs(*prompts: tuple[str, tuple[int, ...]]) -> Any:
    """The small LLaVA's inputs for prompts, each with pictures of one size that their numbers tell apart."""
    return LLAVA.inputs(
        [Prompt(text=text, images=[picture(96, 96, seed) for seed in seeds]) for text, seeds in prompts]
    )


def _cases(name: str, **variants: dict[str, Any]) -> dict[str, Method]:
    shared = {"ratio": 0.6, **({"router": "keyword"} if name == "clasp" else {})}
    plain = get(name)(**shared)
    return {name: plain} | {f"{name}-{variant}": get(name)(**shared | values) for variant, values in variants.items()}


# The shared matrix: every method, pruned to two fifths. A new method is one line here.
METHODS: dict[str, Method] = {
    **_cases("random"),
    **_cases("random_inside"),
    **_cases("stride"),
    **_cases("pool"),
    **_cases("fastv", late={"layer": 2}),
    **_cases("pdrop"),
    **_cases("sparsevlm", plain={"recycle": False, "positions": "original"}),
    **_cases("visionzip", no_cls={"with_cls": False, "positions": "original"}),
    **_cases("dart"),
    **_cases("divprune"),
    **_cases("cdpruner"),
    **_cases("hired"),
    **_cases("vispruner"),
    **_cases("fastervlm", nominal={"accounting": "nominal"}),
    **_cases("prumerge", adaptive={"adaptive": True}),
    **_cases("prumerge_plus"),
    **_cases("tome"),
    **_cases("mustdrop"),
    **_cases("vscan"),
    **_cases("hiprune"),
    **_cases("mmtok"),
    **_cases("holov"),
    **_cases("scope"),
    **_cases("prunesid"),
    **_cases("flowcut"),
    **_cases("v2drop"),
    **_cases("pact", plain={"proportional": False}),
    **_cases("visiontrim"),
    **_cases("ivcprune"),
    **_cases("evs"),
    **_cases("vidcom2"),
    **_cases("fastvid", fine={"segments": 2, "anchor_step": 2}),
    **_cases("holitom", still={"threshold": -0.1}, before={"inner_share": 0.0}),
    **_cases("framefusion", alike={"similarity": 0.0}),
    **_cases(
        "clasp",
        farthest={"completion": "farthest_point", "fusion": "balanced"},
        contiguous={"positions": "contiguous", "completion": "random", "queries": "last"},
        from_0={"stage_layers": (0, 3, 6), "completion": "lowest_similarity", "queries": "raters"},
    ),
}

REDUCED = {"qwen2_vl": ("random", "fastv", "sparsevlm", "visionzip", "pool", "clasp")}
"""Families that differ from another one only in what tests of their adapter cover -> the methods that run on them."""
INSIDE = ("tome", "mustdrop", "flowcut")
"""Methods that merge or drop patches inside the vision tower: not where it packs patches, nor where it interpolates."""
MERGING = (
    *(*INSIDE, "visionzip", "prumerge", "prunesid", "pool", "vscan", "pact", "visiontrim"),
    *("fastvid", "holitom", "framefusion"),
)
"""Methods that change features, so that masking the dropped tokens is not all that they do."""


def merges(name: str) -> bool:
    """Whether that case changes features."""
    return name.startswith(MERGING) or name == "sparsevlm"


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


GREEDY: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
"""Options of ``generate`` for a greedy answer with its logits."""


class Int8(QuantizedLayer):
    """A cache's layer with keys and values as bytes, one scale each; the latest tokens as they are."""

    def _quantize(self, tensor: Tensor, axis: int) -> Any:
        scale = tensor.abs().amax() / 127
        return (tensor / scale).round().to(torch.int8), {"scale": scale}

    def _dequantize(self, quantised: Any) -> Tensor:
        return quantised[0] * quantised[1]["scale"]


def pruned(family: str, method: Method, inputs: Any, attention: str = "sdpa") -> tuple[Tensor, Any]:
    """Logits of a forward with a method, and the run, which has ended."""
    with FAMILIES[family].pruned_by(method, attention) as run, torch.no_grad():
        logits = FAMILIES[family].model(attention)(**inputs).logits
    return logits, run


@contextmanager
def recorded(*modules: nn.Module, prepend: bool = False) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """(positional, keyword) arguments of every call of these modules, in order.

    Args:
        prepend: as they come, before the engine's hooks change them.
    """
    calls: list[tuple[Any, dict[str, Any]]] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(note, with_kwargs=True, prepend=prepend))
        yield calls


def placeholders(model: Any, ids: Tensor) -> Tensor:
    """Of the shape of the token ids, bool: which of them are visual tokens' placeholders."""
    return torch.isin(ids, torch.tensor(list(adapter_for(model).placeholders.values())))


def masked_logits(run: Any, inputs: Any) -> Tensor:
    """Logits of :func:`masked_forward` with the stages of a run that has ended."""
    none = (torch.empty(0, dtype=torch.long),) * len(run.schedule.stages)  # of a prompt without an image
    kept = [sample.kept or none for sample in run.trace.samples]
    stages = {stage.cut: [sample[i] for sample in kept] for i, stage in enumerate(run.schedule.stages)}
    return masked_forward(run.adapter.model, inputs, stages).logits


def masked_forward(
    model: Any, inputs: Any, stages: dict[int, list[Tensor]], visual: Tensor | None = None, **options: Any
) -> Any:
    """Full-length forward in which, from each stage's layer on, the dropped visual tokens are masked.

    Args:
        stages: layer -> per sample the kept visual tokens, as indices among the sample's visual tokens.
        visual: (batch, length) bool; None: all placeholders of the prompts.
        options: further arguments of the forward.
    """
    visual = placeholders(model, inputs["input_ids"]) if visual is None else visual

    def hide(keeps: list[Tensor]) -> Callable[..., Any]:
        dropped = visual.clone()
        for row, keep in enumerate(keeps):
            dropped[row, visual[row].nonzero().squeeze(1)[keep]] = False

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            mask = kwargs["attention_mask"]
            lowest = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask.masked_fill(dropped[:, None, None, :], lowest)}

        return hook

    current = None
    with ExitStack() as hooks, torch.no_grad():
        for index, layer in enumerate(adapter_for(model).layers):
            current = hide(stages[index]) if index in stages else current
            if current is not None:
                hooks.enter_context(layer.register_forward_pre_hook(current, with_kwargs=True))
        return model(**inputs, **options)


def snapshot(model: Any) -> dict[str, Any]:
    """Everything a patch could have changed: modules, their attributes and hooks, methods, configuration."""
    seen: dict[str, Any] = {"config": model.config.to_dict(), "generation": model.generation_config.to_dict()}
    for name, module in model.named_modules():
        attributes = {
            k: v for k, v in vars(module).items() if (not k.startswith("_") or "hooks" in k) and k != "rope_deltas"
        }
        seen[name] = (type(module), type(module).forward, {k: _value(v) for k, v in attributes.items()})
    return seen


def _value(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value if isinstance(value, int | float | str) else id(value)
