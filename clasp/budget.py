"""Budgets, pruning schedules and what "192 tokens" means.

Torch-free: everything here is arithmetic on counts, so that a configuration is checked before any model is loaded.

One image of ``N`` visual tokens passes ``L`` decoder layers. Layer ``l`` computes on ``entering[l]`` visual tokens and
hands ``leaving[l]`` of them on. A :class:`Stage` drops tokens either before a layer computes (``after=False``: FastV,
PDrop, CLASP) or after it (``after=True``: SparseVLM, whose layer runs in full and whose output is pruned).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Literal

Accounting = Literal["output_average", "nominal", "published", "thresholds"]
"""What a method's ``tokens`` can count; the last two stand for a paper's own stage counts or thresholds."""
ACCOUNTINGS: tuple[Accounting, ...] = ("output_average", "nominal")
"""Those that every method with a single stage takes."""
PUBLISHED_TOKENS = 576
"""Visual tokens of an image in the tables of the papers whose counts are published (LLaVA-1.5)."""


class BudgetError(ValueError):
    """A budget or schedule that the backbone cannot meet; the message names the value, the bounds and a remedy."""


@dataclass(frozen=True)
class Budget:
    """How many visual tokens an image may keep, as a count or as a share removed; exactly one of the two.

    Args:
        tokens: visual tokens per image, at least 1.
        ratio: share of the visual tokens that is removed, in [0, 1); 0.889 of 576 leaves 64.
    """

    tokens: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.ratio is None):
            raise BudgetError(
                f"give either tokens or ratio, not both and not neither (tokens={self.tokens}, ratio={self.ratio})"
            )
        if self.tokens is not None and (isinstance(self.tokens, bool) or not isinstance(self.tokens, Integral)):
            raise BudgetError(f"tokens={self.tokens!r} is not a whole number; use ratio for a share")
        if self.tokens is not None and self.tokens < 1:
            raise BudgetError(f"tokens={self.tokens} is below 1; at least one visual token must stay")
        if self.ratio is not None and (isinstance(self.ratio, bool) or not isinstance(self.ratio, Real)):
            raise BudgetError(f"ratio={self.ratio!r} is not a number; it is the share of visual tokens removed")
        if self.ratio is not None and not 0.0 <= self.ratio < 1.0:
            raise BudgetError(f"ratio={self.ratio} is outside [0, 1); it is the share of visual tokens removed")

    def resolve(self, visual_tokens: int) -> int:
        """The budget as a count for an image of ``visual_tokens`` tokens.

        Raises:
            BudgetError: more tokens are asked for than the image has.
        """
        if self.tokens is None:
            assert self.ratio is not None
            return max(1, round(visual_tokens * (1.0 - self.ratio)))
        if self.tokens > visual_tokens:
            raise BudgetError(
                f"tokens={self.tokens} is more than the {visual_tokens} visual tokens of an image on this backbone; "
                f"use 1 to {visual_tokens}, or method=none for the unpruned model"
            )
        return self.tokens


@dataclass(frozen=True)
class Geometry:
    """What schedules and costs need to know of a backbone. Widths are in channels, all counts per image.

    Args:
        layers, hidden, ffn, heads: of the decoder: layers, their width, the width inside their feed-forward part, and
            their query heads.
        kv_dim: width of a decoder layer's keys, and of its values.
        visual_tokens: of one image; where it depends on the image (``dynamic``), of the one that papers count with.
        feature_layer: index into the ViT's hidden states (0 = embeddings) that the projector reads, non-negative.
        cls: the ViT has a CLS token.
        multimodal_rotary: rotary positions have an axis each for time, height and width.
        dynamic: the number of visual tokens depends on the image's size.
        packed_vision: the ViT takes all patches of a batch as one sequence, so that none can be merged inside it.
        text_tower: beside the weights lies the CLIP model, text tower included, whose vision tower the ViT is.
        joined_patches: several patches of a crop make one visual token, so that none can be merged inside the ViT.
        videos: it takes videos.
    """

    visual_tokens: int
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_dim: int
    vision_layers: int
    feature_layer: int
    cls: bool = True
    multimodal_rotary: bool = False
    dynamic: bool = False
    packed_vision: bool = False
    text_tower: bool = False
    joined_patches: bool = False
    videos: bool = False


@dataclass(frozen=True)
class Stage:
    """Keep ``keep`` visual tokens from decoder layer ``layer`` (0-based) on; ``after``: that layer runs in full."""

    layer: int
    keep: int
    after: bool = False

    @property
    def cut(self) -> int:
        """Index of the first decoder layer that computes on the reduced set."""
        return self.layer + 1 if self.after else self.layer


@dataclass(frozen=True)
class TokenCounts:
    """The same schedule counted four ways, in visual tokens per image.

    - ``nominal``: the count that stays after the one pruning step; with several stages, the budget asked for.
    - ``output_average``: mean over layers of the tokens that leave a layer (SparseVLM, PDrop and CLASP mean this).
    - ``input_average``: mean over layers of the tokens that a layer computes on: what compute and KV cache see.
    - ``final``: tokens that leave the last layer.
    """

    nominal: float
    output_average: float
    input_average: float
    final: float


@dataclass(frozen=True)
class Schedule:
    """Stages in decoder order over ``layers`` layers for an image of ``visual_tokens`` tokens.

    Raises:
        BudgetError: a stage lies outside the decoder, stages are out of order, or a stage keeps more than it is given.
    """

    visual_tokens: int
    layers: int
    stages: tuple[Stage, ...] = ()
    nominal: int | None = None

    def __post_init__(self) -> None:
        last_cut, last_keep = -1, self.visual_tokens
        for stage in self.stages:
            if not 0 <= stage.layer < self.layers:
                raise BudgetError(
                    f"stage layer {stage.layer} is outside the decoder; use layers 0 to {self.layers - 1} (0-based)"
                )
            if stage.cut <= last_cut:
                raise BudgetError(f"stage layers must increase, got {[s.layer for s in self.stages]}")
            if not 1 <= stage.keep <= last_keep:
                raise BudgetError(
                    f"stage at layer {stage.layer} keeps {stage.keep} visual tokens of {last_keep}; "
                    f"use 1 to {last_keep}"
                )
            last_cut, last_keep = stage.cut, stage.keep

    def entering(self) -> tuple[int, ...]:
        """Visual tokens that each layer computes on."""
        return tuple(self._count(layer, leaving=False) for layer in range(self.layers))

    def leaving(self) -> tuple[int, ...]:
        """Visual tokens that each layer hands on."""
        return tuple(self._count(layer, leaving=True) for layer in range(self.layers))

    def _count(self, layer: int, *, leaving: bool) -> int:
        done = [s for s in self.stages if (s.layer if leaving else s.cut) <= layer]
        return done[-1].keep if done else self.visual_tokens

    def token_counts(self) -> TokenCounts:
        nominal = self.nominal if self.nominal is not None else self.leaving()[-1]
        return token_counts(self.entering(), self.leaving(), nominal)


def token_counts(entering: Sequence[float], leaving: Sequence[float], nominal: float) -> TokenCounts:
    """Counts the four ways from visual tokens per layer (see :class:`TokenCounts`)."""
    return TokenCounts(
        nominal=float(nominal),
        output_average=sum(leaving) / len(leaving),
        input_average=sum(entering) / len(entering),
        final=float(leaving[-1]),
    )


def scaled_layers(layers: Sequence[int], depth: int, reference_depth: int = 32) -> tuple[int, ...]:
    """Stage layers published for a ``reference_depth``-layer decoder, moved to the same relative depth of another one.

    Rounds half up and keeps the layers distinct and in order, so (2, 6, 15) of 32 becomes (1, 2, 6) of 12. A layer that
    was past the first stays past the first: attention scores need one layer of context.

    Raises:
        BudgetError: the decoder is too shallow to hold the stages apart.
    """
    scaled: list[int] = []
    for layer in layers:
        position = int(layer * depth / reference_depth + 0.5)
        floor = scaled[-1] + 1 if scaled else min(layer, 1)
        scaled.append(max(position, floor))
    if scaled and scaled[-1] >= depth:
        raise BudgetError(f"a decoder of {depth} layers is too shallow for {len(layers)} stages at {tuple(layers)}")
    return tuple(scaled)


def single_stage(target: int, visual_tokens: int, layers: int, layer: int, accounting: Accounting) -> Schedule:
    """One stage before ``layer``, keeping ``target`` tokens by the token-count convention ``accounting``.

    With ``nominal`` the stage keeps ``target``; with ``output_average`` it keeps what makes the mean over layers
    ``target`` to within half a token per layer (FastV at layer 2 of 32 keeps 30 of 576 to average 64).

    Raises:
        BudgetError: the layers before the stage alone exceed the budget; the message names the smallest one possible.
    """
    keep = target
    if accounting == "output_average":
        keep = round((target * layers - visual_tokens * layer) / (layers - layer))
    if keep < 1:
        raise _unreachable(target, visual_tokens, layers, (layer,))
    return Schedule(visual_tokens, layers, (Stage(layer, keep),), nominal=keep)


def geometric(
    target: int, visual_tokens: int, layers: int, stage_layers: Sequence[int], *, after: bool = False
) -> Schedule:
    """Stages before ``stage_layers`` whose counts shrink by one constant ratio and average ``target`` over all layers.

    With ``after`` these layers run in full and their outputs are pruned; the tokens that leave each layer are the same.
    The ratio is found by bisection; what rounding leaves over is settled one token at a time, so that the output
    average is within one token of ``target`` (assumption: the paper does not state its stage counts).

    Raises:
        BudgetError: the layers before the first stage alone exceed the budget.
    """
    if not stage_layers:
        raise BudgetError("a staged schedule needs at least one stage layer")
    Schedule(visual_tokens, layers, tuple(Stage(layer, 1) for layer in stage_layers))  # refuses layers out of range
    bounds = [*stage_layers, layers]
    spans = [after - before for before, after in pairwise(bounds)]
    room = target * layers - visual_tokens * bounds[0]
    if room < sum(spans):
        raise _unreachable(target, visual_tokens, layers, stage_layers)

    low, high = 0.0, 1.0
    for _ in range(60):
        ratio = (low + high) / 2
        total = sum(span * visual_tokens * ratio ** (i + 1) for i, span in enumerate(spans))
        low, high = (low, ratio) if total > room else (ratio, high)
    keeps = [max(1, round(visual_tokens * low ** (i + 1))) for i in range(len(spans))]
    _settle(keeps, spans, room, visual_tokens)
    stages = tuple(Stage(layer, keep, after) for layer, keep in zip(stage_layers, keeps, strict=True))
    return Schedule(visual_tokens, layers, stages, nominal=target)


def published_budget(target: int, visual_tokens: int, budgets: Collection[int]) -> int:
    """Which of a paper's ``budgets``, out of :data:`PUBLISHED_TOKENS` visual tokens, is the same share as ``target``.

    Raises:
        BudgetError: none of them, to within rounding of either count.
    """
    scale = visual_tokens / PUBLISHED_TOKENS
    for budget in budgets:
        if abs(target - budget * scale) <= 0.5 * max(1.0, scale):
            return budget
    raise BudgetError(
        f"no counts are published for {target} of {visual_tokens} visual tokens; use "
        f"{', '.join(str(round(budget * scale)) for budget in budgets)}, or accounting=output_average"
    )


def _settle(keeps: list[int], spans: list[int], room: int, visual_tokens: int) -> None:
    """Moves single tokens, longest span first, while that brings the total nearer to ``room`` and keeps the order."""
    improved = True
    while improved:
        improved = False
        error = room - sum(span * keep for span, keep in zip(spans, keeps, strict=True))
        step = 1 if error > 0 else -1
        for i in sorted(range(len(keeps)), key=lambda i: spans[i], reverse=True):
            above = keeps[i - 1] if i else visual_tokens
            below = keeps[i + 1] if i + 1 < len(keeps) else 1
            if below <= keeps[i] + step <= above and abs(error - step * spans[i]) < abs(error):
                keeps[i] += step
                improved = True
                break


def _unreachable(target: int, visual_tokens: int, layers: int, stage_layers: Sequence[int]) -> BudgetError:
    smallest = -(-(visual_tokens * stage_layers[0] + (layers - stage_layers[0])) // layers)
    return BudgetError(
        f"a budget of {target} visual tokens (output average) cannot be reached when the first stage is decoder layer "
        f"{stage_layers[0]} of {layers}: the smallest is {smallest}; ask for more tokens or for an earlier stage"
    )
