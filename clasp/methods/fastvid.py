"""FastVID: a video cut into segments of alike frames; in each, what is attended to, and density peaks that take in the
rest.

Shen et al., "FastVID: Dynamic Density Pruning for Fast Video Large Language Models", arXiv 2503.11187. Before the
decoder, on projected tokens. Cuts lie between the c - 1 least alike pairs of frames and wherever their cosine is below
tau. Of a frame's R tokens, R - floor(R d) are those of highest attention in the ViT. The others of a segment are summed
up by anchors, in every p-th of its frames counted from its end: the density peaks (DPC-KNN) of that frame. For each of
these frames, each of the segment's other tokens joins the anchor of highest cosine; an anchor x with m of them, itself
included, becomes w x + (1 - w) mean, w = max(1 / (m + 1), alpha).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from clasp.methods.base import Method, proportional
from clasp.methods.protocols import Scope, Selection, State
from clasp.methods.video import Clip
from clasp.ops.cluster import cluster_means, density_peak_scores
from clasp.ops.grouping import nearest_of
from clasp.ops.select import take, top_k, uniform
from clasp.ops.similarity import Closeness

NEIGHBOURS, NOISE = 4, 1e-6
"""Of the density, in the official code."""


@dataclass(frozen=True, kw_only=True)
class FastVID(Method):
    """FastVID (arXiv 2503.11187).

    Args:
        segments: c; a video of at least c frames has at least c segments. The official scripts' 8.
        threshold: tau, cosine of two frames below which there is a cut; the scripts' 0.9 for LLaVA-OneVision (0.84 for
            Qwen2.5-VL).
        contextual_share: d, share of a frame's tokens that are anchors, in [0, 1]; the scripts' 0.4.
        anchor_step: p, frames to an anchor frame, at least 1; the scripts' 4.
        anchor_weight: alpha, least weight of an anchor in what it becomes, in [0, 1]; the scripts' 0.6.
    """

    name: ClassVar[str] = "fastvid"
    paper: ClassVar[str] = "2503.11187"
    scope: ClassVar[Scope] = "image"
    needs_videos: ClassVar[bool] = True
    reads_cls: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "FastVID's frames are compared by their mean projected token, as in its Qwen code; there and for "
        "attention its LLaVA-OneVision code has SigLIP's pooling head, which checkpoints in transformers' format lack",
        "FastVID's attention is that of the ViT layer whose output the projector reads",
        "FastVID's tokens that rounding leaves over become anchors, split over segments in proportion to their frames; "
        "its code loses them",
        "FastVID's anchors that their frames have no room for become attended tokens instead",
        "FastVID's Qwen code leaves out frames that are nearly equal to the next one; this one, as for LLaVA, does not",
        "FastVID takes an image, with all of its tiles, for a video of one frame",
    )
    segments: int = 8
    threshold: float = 0.9
    contextual_share: float = 0.4
    anchor_step: int = 4
    anchor_weight: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("segments", "anchor_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1; it counts segments or frames")
        for name in ("contextual_share", "anchor_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is outside [0, 1]; it is a share")

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        return (feature_layer - 1,)

    def select(self, state: State, keep: int) -> Selection:
        clip, vision = Clip.of(state, keep), state.vision()
        salience = clip.by_frame(vision.attention(vision.feature_layer - 1))
        tokens = clip.by_frame(state.tokens()).float()
        means = tokens.mean(dim=2)
        alike = cosine_similarity(means[:, 1:], means[:, :-1], dim=-1)
        lengths = [self._lengths(row) for row in (alike.tolist() if clip.frames.count > 1 else [[]] * len(tokens))]
        noise = NOISE * uniform(state.seeds(), salience[0].numel()).to(tokens.device).view_as(salience)
        stays = torch.zeros_like(salience, dtype=torch.bool)
        merged = tokens.clone()
        for row, own in enumerate(lengths):
            salient, quotas, more = self._quotas(own, clip.frames.size, clip.keep)
            stays[row].scatter_(1, top_k(salience[row], salient), True)
            rest = stays[row].int().argsort(dim=1, stable=True)[:, : clip.frames.size - salient]
            for frames, frame, count in quotas:
                place, features = self._anchors(tokens[row], rest, noise[row], frames, frame, count)
                merged[row, frame, place] = features
                stays[row, frame, place] = True
            if more:
                left = salience[row].masked_fill(stays[row], -1.0).view(1, -1)
                stays[row].view(-1).index_fill_(0, top_k(left, more)[0], True)
        index = clip.chosen(stays)
        return Selection(index, take(clip.back(merged, state.tokens()), index))

    def _lengths(self, alike: Sequence[float]) -> list[int]:
        """Frames of each segment, from the cosines of neighbouring frames."""
        least = sorted(range(len(alike)), key=lambda gap: alike[gap])[: self.segments - 1]
        cuts = sorted({*least, *(gap for gap, value in enumerate(alike) if value < self.threshold)})
        ends = [*(gap + 1 for gap in cuts), len(alike) + 1]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def _quotas(self, lengths: Sequence[int], size: int, keep: int) -> tuple[int, list[tuple[range, int, int]], int]:
        """How many attended tokens each frame keeps; of each anchor frame that has any, its segment's frames, number
        and anchors; and how many attended tokens stay beside, of whatever frame."""
        count, anchored = sum(lengths), [-(-length // self.anchor_step) for length in lengths]
        each = keep // count
        salient = each - int(each * self.contextual_share)
        if count > sum(anchored):  # more, where anchor frames cannot hold the others
            salient = max(salient, (keep - sum(anchored) * size) // (count - sum(anchored)))
        limits = [frames * (size - salient) for frames in anchored]
        contextual = min(keep - count * salient, sum(limits))
        shares = proportional(lengths, limits, contextual)
        quotas, start = [], 0
        for length, frames, quota in zip(lengths, anchored, shares, strict=True):
            for number in range(frames):  # from the segment's end, the first ones have what does not divide
                own = quota // frames + (number < quota % frames)
                last = start + length - 1
                if own:
                    quotas.append((range(start, start + length), last - number * self.anchor_step, own))
            start += length
        return salient, quotas, keep - count * salient - contextual

    def _anchors(
        self, tokens: Tensor, rest: Tensor, noise: Tensor, frames: range, frame: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """Places of a frame's anchors (anchors,) and what they become (anchors, dim).

        Args:
            tokens: (count, size, dim) float32 of the video.
            rest: (count, others) long, the places in each frame that are not attended to.
            noise: (count, size), of the density.
            frames: of the segment.
        """
        own = tokens[frame, rest[frame]][None]
        scores = density_peak_scores(
            Closeness(own), min(NEIGHBOURS, rest.shape[1]), noise[frame].gather(0, rest[frame])[None]
        )
        peaks = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        span = slice(frames.start, frames.stop)
        others = take(tokens[span], rest[span]).flatten(0, 1)[None]
        anchors = (frame - frames.start) * rest.shape[1] + peaks
        joined = nearest_of(others, anchors)
        members = torch.zeros_like(peaks).scatter_add(1, joined, torch.ones_like(joined))
        weight = (1.0 / (members + 1)).clamp(min=self.anchor_weight)[..., None]
        features = weight * take(others, anchors) + (1.0 - weight) * cluster_means(others, joined, count)
        return rest[frame].gather(0, peaks[0]), features[0]
