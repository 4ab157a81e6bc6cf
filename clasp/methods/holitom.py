"""HoliTom: still parts of a video once for all of their frames, then attention and density; merging inside the decoder.

Shao et al., "HoliTom: Holistic Token Merging for Fast Video Large Language Models", arXiv 2505.21334. Before the
decoder, on projected tokens: a place is still over frames s to e where each cosine of two neighbouring frames exceeds
tau. The video is cut into segments so that the tokens saved, still places times (e - s), are most (dynamic
programming); a segment's still places become their mean over its frames. What is left shares the budget in proportion.
Of each frame's moving tokens the most attended in the ViT stay. Of a segment's still tokens the centres of DPC-KNN
clusters stay, each as 0.6 of itself plus 0.4 of the mean of its cluster's other tokens. Before decoder layer 18 of 28
half of the tokens stay, by the last token's attention; each of the others, one by one, is merged into the kept token
most like it, which becomes the mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clasp.budget import BudgetError, Schedule, Stage, scaled_layers
from clasp.methods.base import Method, proportional
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.methods.video import Clip
from clasp.ops.cluster import cluster_means, density_peak_clusters
from clasp.ops.grouping import halved_into
from clasp.ops.select import take, top_k, uniform

INNER_LAYER, OF_LAYERS = 18, 28
"""Decoder layer before which tokens merge, and the decoder's layers, of the official scripts for LLaVA-OneVision-7B."""
NEIGHBOURS, NOISE = 7, 1e-6
"""Of the density, in the official code."""

Segment = tuple[int, int, list[int]]
"""First and last frame, and the places that are still over them."""


@dataclass(frozen=True, kw_only=True)
class HoliTom(Method):
    """HoliTom (arXiv 2505.21334).

    Args:
        threshold: tau, cosine above which a place is still; the official default 0.8 (scripts: 0.65 where a tenth of
            the tokens stays).
        centre_weight: weight of a centre beside the mean of what joins it, in [0, 1]; 0.6 in the official code.
        inner_share: share of the tokens that goes inside the decoder, in [0, 1); the scripts' 0.5. 0: the variant
            without it, the paper's "w/o M".
    """

    name: ClassVar[str] = "holitom"
    paper: ClassVar[str] = "2505.21334"
    inside: ClassVar[bool] = True
    scope: ClassVar[Scope] = "image"
    lookback: ClassVar[int] = 1
    needs_videos: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "HoliTom's layer 18 of 28 scales with the depth of other decoders",
        "HoliTom's budget is split over frames and segments in proportion to their tokens; its code rounds up",
        "HoliTom keeps fewer tokens than asked for where more than that is saved by still places alone",
        "HoliTom's attention is that received in the ViT layer whose output the projector reads, CLS's included",
        "HoliTom's centres have 0.6 of their cluster's weight, as in its code by default; its paper takes plain means",
        "HoliTom takes an image, with all of its tiles, for a video of one frame",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    threshold: float = 0.8
    centre_weight: float = 0.6
    inner_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.centre_weight <= 1.0:
            raise ValueError(f"centre_weight={self.centre_weight} is outside [0, 1]; it is a weight beside its rest")
        if not 0.0 <= self.inner_share < 1.0:
            raise ValueError(f"inner_share={self.inner_share} is outside [0, 1); some tokens must stay")

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        target, stays = self.target(visual_tokens), 1.0 - self.inner_share
        if not self.inner_share:
            return super().schedule(visual_tokens, layers)
        (inner,) = scaled_layers((INNER_LAYER,), layers, OF_LAYERS)
        if not 0 < inner < layers:
            raise BudgetError(f"a decoder of {layers} layers is too shallow for HoliTom; use inner_share=0")
        first, second = target, max(1, round(stays * target))
        if self.accounting == "output_average":
            room, behind = target * layers, layers - inner
            first = min(round(room / (inner + stays * behind)), visual_tokens, (room - behind) // inner)
            second = min(first, round((room - first * inner) / behind))
        return Schedule(visual_tokens, layers, (Stage(0, first), Stage(inner, second)), nominal=target)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1,)

    def select(self, state: State, keep: int) -> Selection:
        if state.stage.layer > 0:
            index = top_k(state.attention("last"), keep)
            return Selection(index, halved_into(state.tokens(), index))
        clip, vision = Clip.of(state, keep), state.vision()
        received = clip.by_frame(vision.received(vision.feature_layer - 1))
        tokens = clip.by_frame(state.tokens()).float()
        still = cosine_similarity(tokens[:, 1:], tokens[:, :-1], dim=-1) > self.threshold
        noise = NOISE * uniform(state.seeds(), received[0].numel()).to(tokens.device).view_as(received)
        merged, order = tokens.clone(), []
        for row, found in enumerate(still.tolist() if clip.frames.count > 1 else [[]] * len(tokens)):
            parts = _parts(segments(found, clip.frames.size), clip.frames.size)
            sizes = [len(places) for _, _, places in parts]
            quotas = proportional(sizes, sizes, min(clip.keep, sum(sizes)))
            order.append(self._kept(merged[row], received[row], noise[row], parts, quotas))
        return self._selection(clip, state, merged, order)

    def _kept(
        self, tokens: Tensor, received: Tensor, noise: Tensor, parts: Sequence[Segment], quotas: Sequence[int]
    ) -> Tensor:
        """(kept,) long: what stays of a video, among its frames' tokens, in the order in which it goes on.

        Args:
            tokens: (count, size, dim) float32, in which still tokens are replaced by what they become.
            received: (count, size) attention in the ViT.
            noise: (count, size), of the density.
            parts: frames and places that are ranked together; those of several frames are still over them.
            quotas: tokens that stay of each.
        """
        size, kept = tokens.shape[1], [torch.zeros(0, dtype=torch.long, device=tokens.device)]
        for (first, last, listed), quota in zip(parts, quotas, strict=True):
            if not quota:
                continue
            places = torch.tensor(listed).to(tokens.device, non_blocking=True)
            if first == last:
                chosen = top_k(received[first, places][None], quota)[0]
            else:
                values = tokens[first : last + 1, places].mean(dim=0)[None]
                chosen, features = self._centres(values, quota, noise[first, places][None])
                tokens[first, places[chosen]] = features
            kept.append(first * size + places[chosen])
        return torch.cat(kept)

    def _centres(self, values: Tensor, count: int, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(1, tokens, dim) -> ascending places (count,) of the centres, and what they become (count, dim)."""
        centres, joined = density_peak_clusters(values, count, min(NEIGHBOURS, count), noise)
        own, means = take(values, centres), cluster_means(values, joined, count)
        members = torch.zeros_like(centres).scatter_add(1, joined, torch.ones_like(joined))[..., None]
        others = (means * members - own) / (members - 1).clamp(min=1)
        mixed = torch.where(members > 1, self.centre_weight * own + (1.0 - self.centre_weight) * others, own)
        rising = centres[0].argsort()
        return centres[0, rising], mixed[0, rising]

    def _selection(self, clip: Clip, state: State, merged: Tensor, order: Sequence[Tensor]) -> Selection:
        """Rows that keep fewer tokens than others are padded with entries that are not valid."""
        width = max(len(kept) for kept in order)
        real = torch.tensor([[place < len(kept) for place in range(width)] for kept in order])
        rows = [torch.cat([kept, _others(kept, merged[0, ..., 0].numel(), width - len(kept))]) for kept in order]
        index = torch.cat([clip.index.gather(1, torch.stack(rows)), clip.loose], dim=1)
        features = take(clip.back(merged, state.tokens()), index)
        if width == clip.keep and bool(real.all()):
            return Selection(index, features)
        valid = torch.cat([real, torch.ones(clip.loose.shape, dtype=torch.bool)], dim=1)
        return Selection(index, features, valid=valid)


def segments(still: Sequence[Sequence[bool]], size: int) -> list[Segment]:
    """The segments of a video that save most tokens; of equals, those of the fewest frames at its end.

    Args:
        still: of each frame but the last, which places are alike in it and the next one.
        size: places of a frame.
    """
    count = len(still) + 1
    alike = torch.tensor(still, dtype=torch.bool).view(count - 1, size)
    best, starts = [0.0] * (count + 1), [0] * count  # of the frames before one; its segment's first frame
    runs = torch.zeros(0, size, dtype=torch.bool)  # of each first frame, the places that are still up to here
    for last in range(count):
        if last:
            runs = torch.cat([runs & alike[last - 1], alike[last - 1][None]])
        saved = (runs.sum(dim=1) * torch.arange(last, 0, -1)).tolist()
        best[last + 1], starts[last] = best[last], last
        for first in reversed(range(last)):
            if best[first] + saved[first] > best[last + 1]:
                best[last + 1], starts[last] = best[first] + saved[first], first
    found: list[Segment] = []
    last = count - 1
    while last >= 0:
        first = starts[last]
        places = alike[first:last].all(dim=0).nonzero().squeeze(1).tolist() if first < last else []
        found.insert(0, (first, last, places))
        last = first - 1
    return found


def _parts(found: Sequence[Segment], size: int) -> list[Segment]:
    """The still places of each segment, then what moves in each of its frames."""
    parts: list[Segment] = []
    for first, last, still in found:
        parts += [(first, last, still)] if still else []
        known = set(still)
        moving = [place for place in range(size) if place not in known]
        parts += [(frame, frame, moving) for frame in range(first, last + 1)]
    return parts


def _others(kept: Tensor, total: int, count: int) -> Tensor:
    """(count,) long of ``total`` places, none of the kept."""
    taken = torch.zeros(total, dtype=torch.int, device=kept.device).index_fill(0, kept, 1)
    return taken.argsort(stable=True)[:count]
