"""VidCom2: more tokens for frames that stand out of the video, and in each frame those that stand out of both.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models", arXiv
2505.14454. Before the decoder, on projected tokens: of the half of the channels that vary least, brought to length one,
g(x, c) = sum over a in {1/8, 1/4, 1/2, 1, 2} of exp(-|x - c|^2 / 2a) says how near a token is to a centre. Frame f
stands out by u_f = -mean of g(x, mean of the video); with p = softmax((u - max u) / 0.01) its share of the budget is in
proportion to 1 + p_f - mean p. In a frame the tokens of the smallest g(x, mean of the video) + g(x, mean of the frame)
stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clasp.methods.base import Method, proportional
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.methods.video import Clip
from clasp.ops.select import top_mask

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Variances of the kernels, of the official code."""


@dataclass(frozen=True, kw_only=True)
class VidCom2(Method):
    """VidCom2 (arXiv 2505.14454).

    Args:
        channel_share: share of the channels that is read, those of lowest variance, in (0, 1]; the official code's 0.5.
        temperature: of the softmax over frames, positive; the official code's 0.01.
    """

    name: ClassVar[str] = "vidcom2"
    paper: ClassVar[str] = "2505.14454"
    scope: ClassVar[Scope] = "image"
    needs_videos: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "VidCom2's frames share a fixed total in proportion to its rates; its code rounds each count, to 1 at least",
        "VidCom2 takes an image, with all of its tiles, for a video of one frame",
        "VidCom2's frames are pairs of sampled ones on Qwen-VL, as in its code, and have a CLS token on Video-LLaVA",
    )
    positions: Positions = "contiguous"  # the official code prunes before the decoder sees a sequence
    channel_share: float = 0.5
    temperature: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.channel_share <= 1.0:
            raise ValueError(f"channel_share={self.channel_share} is outside (0, 1]; it is a share of the channels")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature={self.temperature} is not above 0; the softmax over frames divides by it")

    def select(self, state: State, keep: int) -> Selection:
        clip = Clip.of(state, keep)
        tokens = normalize(steadiest(clip.by_frame(state.tokens()).float(), self.channel_share), dim=-1)
        to_video = nearness(tokens, tokens.mean(dim=(1, 2), keepdim=True))
        to_frame = nearness(tokens, tokens.mean(dim=2, keepdim=True))
        rates = self._rates(to_video).tolist() if clip.frames.count > 1 else [[1.0]] * len(tokens)
        limits = [clip.frames.size] * clip.frames.count
        quotas = torch.tensor([proportional(row, limits, clip.keep) for row in rates]).to(tokens.device)
        stays = top_mask(-(to_video + to_frame).flatten(0, 1), quotas.flatten())
        return Selection(clip.chosen(stays.unflatten(0, quotas.shape)))

    def _rates(self, to_video: Tensor) -> Tensor:
        """(rows, count, size) nearness to the video's centre -> (rows, count), in proportion to the frames' shares."""
        unlike = -to_video.mean(dim=2)
        odd = ((unlike - unlike.amax(dim=1, keepdim=True)) / self.temperature).softmax(dim=1)
        return 1.0 + odd - odd.mean(dim=1, keepdim=True)


def steadiest(tokens: Tensor, share: float) -> Tensor:
    """(rows, count, size, dim) -> those channels of each row, at least one, that vary least over all its tokens."""
    variance = tokens.flatten(1, 2).var(dim=1, unbiased=False)
    count = max(1, int(tokens.shape[-1] * share))
    channels = variance.argsort(dim=1, stable=True)[:, :count]
    return tokens.gather(3, channels[:, None, None].expand(*tokens.shape[:3], -1))


def nearness(tokens: Tensor, centre: Tensor) -> Tensor:
    """(rows, count, size, dim) and what it broadcasts with -> (rows, count, size)."""
    squares = (tokens - centre).square().sum(dim=-1)
    return torch.stack([torch.exp(-squares / (2.0 * width)) for width in WIDTHS]).sum(dim=0)
