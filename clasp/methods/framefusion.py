"""FrameFusion: what a frame repeats goes into the frame before it, layer by layer; then attention, up to the budget.

Fu et al., "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large Vision Language Models",
arXiv 2501.01986. Inside the decoder, from its first layer on: a token whose cosine to the one at its place in the frame
before (of those that are left) is at least S joins it, and a run of such tokens becomes their mean. Where so many would
join that the mean count over all layers falls below the budget, only the most alike do, and nothing further is merged
or dropped. Where fewer than a share R of the tokens join, merging ends, and before the next layer the tokens stay that
the prompt's last token attends to most, as many as the budget leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from clasp.budget import Accounting, BudgetError, Schedule, Stage
from clasp.methods.base import Method
from clasp.methods.protocols import Frames, Scope, Selection, State
from clasp.ops.grouping import run_means
from clasp.ops.select import take, top_k, top_mask

Step = Literal["merge", "prune", "none"]


@dataclass(frozen=True, kw_only=True)
class FrameFusion(Method):
    """FrameFusion (arXiv 2501.01986).

    Args:
        similarity: S, cosine from which on a token joins the one before it; the official code's 0.6.
        merging_share: R, share of the tokens below which merging ends, in [0, 1]; the official code's 0.1.
    """

    name: ClassVar[str] = "framefusion"
    paper: ClassVar[str] = "2501.01986"
    inside: ClassVar[bool] = True
    scope: ClassVar[Scope] = "image"
    lookback: ClassVar[int] = 1
    needs_videos: ClassVar[bool] = True
    own_counts: ClassVar[bool] = True
    accountings: ClassVar[tuple[Accounting, ...]] = ("output_average",)
    assumptions: ClassVar[tuple[str, ...]] = (
        "FrameFusion acts between decoder layers, by the attention of the layer before; its code does so between a "
        "layer's attention and its feed-forward part",
        "FrameFusion's mean count is over the layers of the actual decoder; its code has 28 for all",
        "FrameFusion merges in the first quarter of the decoder at most, and prunes as soon as the budget would not "
        "bear another whole layer; its code has no such ends",
        "FrameFusion ranks by the last token's attention; its code for Qwen2-VL takes the last four tokens'",
        "FrameFusion ranks newlines by attention too, and merges none",
        "FrameFusion takes an image, with all of its tiles, for a video of one frame: it is pruned by attention alone",
    )
    similarity: float = 0.6
    merging_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.merging_share <= 1.0:
            raise ValueError(f"merging_share={self.merging_share} is outside [0, 1]; it is a share of the tokens")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target = self.target(visual_tokens)
        if target * layers < visual_tokens + layers - 1:
            smallest = -(-(visual_tokens + layers - 1) // layers)
            raise BudgetError(
                f"a budget of {target} visual tokens (output average) cannot be reached by FrameFusion, whose first "
                f"layer of {layers} may see all {visual_tokens}: the smallest is {smallest}; ask for more tokens"
            )
        stages = tuple(Stage(layer, target) for layer in range(last_stage(layers) + 1))
        return Schedule(visual_tokens, layers, stages, nominal=target)

    def select(self, state: State, keep: int) -> Selection:
        count, frames = state.visual_tokens, state.frames()
        steps: list[tuple[Step, int]] = []
        for noted in state.scratch:
            counts = noted.setdefault("counts", [])
            counts.append(count)
            steps.append(self._step(counts, keep, state.depth))
        if frames.count == 1:  # nothing to merge
            steps = [step if step[0] == "prune" else ("none", count) for step in steps]
        if len(set(steps)) == 1 and steps[0][0] != "merge":
            everything = torch.arange(count, device=frames.frame.device).expand(len(steps), -1)
            return Selection(top_k(state.attention("last"), steps[0][1]) if steps[0][1] < count else everything)
        return self._mixed(state, frames, steps)

    def _step(self, counts: Sequence[int], budget: int, layers: int) -> tuple[Step, int]:
        """The step before layer ``len(counts) - 1``, and how many tokens it leaves (a merging step: at least), from the
        counts that entered this layer and those before it."""
        step: Step = "merge"
        used = 0
        for layer, count in enumerate(counts):
            room = (budget * layers - used) / (layers - layer)  # of each layer from this one on
            left = min(count, max(1, round(room) if step == "prune" else count - int(count - room)))
            if step == "merge" and layer and not self._affordable(layer, layers, count, budget * layers - used):
                step, left = "prune", min(count, max(1, round(room)))
            if step == "none" or left >= count:
                step, left = "none", count
            if layer + 1 == len(counts):
                return step, left
            following = counts[layer + 1]
            if step == "prune" or following <= left:
                step = "none"
            elif step == "merge" and count - following < self.merging_share * count:
                step = "prune"
            used += following
        raise AssertionError("there is a layer at least")

    @staticmethod
    def _affordable(layer: int, layers: int, count: int, room: int) -> bool:
        """Whether a layer may see all ``count`` tokens and each one behind it at least one."""
        return layer < last_stage(layers) and count + layers - layer - 1 <= room

    def _mixed(self, state: State, frames: Frames, steps: Sequence[tuple[Step, int]]) -> Selection:
        """Rows of which some merge; how many of their tokens join others depends on the data."""
        tokens, device = state.tokens(), frames.frame.device
        merging = torch.tensor([step == "merge" for step, _ in steps]).to(device, non_blocking=True)[:, None]
        left = torch.tensor([count for _, count in steps]).to(device, non_blocking=True)
        order, alike = _by_place(tokens, frames)
        joins = (alike >= self.similarity) & merging
        joins &= top_mask(alike, (state.visual_tokens - left).masked_fill(~merging[:, 0], 0))
        means = run_means(take(tokens, order), joins, frames.count)
        back = order.argsort(dim=1)
        starts_run = pad(joins[:, 1:], (0, 1)) & ~joins
        stays = ~joins.gather(1, back)
        if any(step == "prune" for step, _ in steps):
            stays &= top_mask(state.attention("last"), left) | merging
        index = torch.arange(state.visual_tokens, device=device).expand_as(order)
        return Selection(index, take(means, back), replaced=starts_run.gather(1, back), valid=stays)


def last_stage(layers: int) -> int:
    """The decoder layer before which pruning happens at the latest."""
    return max(1, layers // 4)


def _by_place(tokens: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
    """Tokens by place and, of a place, by frame: (rows, tokens) long; and of each the cosine to the one before it,
    -2 where that is of another place."""
    key = (frames.place * frames.count + frames.frame).masked_fill(frames.frame < 0, frames.count * frames.size)
    order = key.argsort(dim=1, stable=True)
    place, ordered = frames.place.gather(1, order), take(tokens, order).float()
    alike = cosine_similarity(ordered[:, 1:], ordered[:, :-1], dim=-1)
    same = (place[:, 1:] == place[:, :-1]) & (place[:, 1:] >= 0)
    return order, pad(alike.masked_fill(~same, -2.0), (1, 0), value=-2.0)
