"""EVS: of each frame of a video what differs from the frame before it, before the decoder.

Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference", arXiv
2510.14624; what the servers vLLM and SGLang ship. A token of frame f differs by 1 - cos(x_f, x_{f-1}) from the one at
its place in the frame before, projected. The tokens of the first frame stay, and with them those that differ most, over
the whole video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import cosine_similarity, pad

from clasp.methods.base import Method
from clasp.methods.protocols import Positions, Scope, Selection, State
from clasp.methods.video import Clip
from clasp.ops.select import top_k

FIRST = 255.0
"""What the official code takes for the difference of tokens of the first frame, which have none before them: more than
any other token can have."""


@dataclass(frozen=True, kw_only=True)
class EVS(Method):
    """EVS (arXiv 2510.14624); no parameters of its own."""

    name: ClassVar[str] = "evs"
    paper: ClassVar[str] = "2510.14624"
    scope: ClassVar[Scope] = "image"
    needs_videos: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = (
        "EVS keeps the first frame of a video whatever the budget, as vLLM's code does; measured counts then exceed it",
        "EVS keeps images whole: they are a first frame",
        "EVS rounds the kept share of a video's tokens to the nearest count; vLLM's code rounds it down",
        "EVS keeps a newline behind the video; vLLM's models for it have none",
        "EVS keeps the positions of text behind a video on Qwen-VL; vLLM moves them up to the kept tokens",
    )
    positions: Positions = "contiguous"  # servers build the shorter sequence; on Qwen-VL places in the grid are kept

    def select(self, state: State, keep: int) -> Selection:
        clip = Clip.of(state, keep)
        tokens = clip.by_frame(state.tokens()).float()
        differs = 1.0 - cosine_similarity(tokens[:, 1:], tokens[:, :-1], dim=-1)
        kept = max(clip.keep, clip.frames.size)
        place = top_k(pad(differs, (0, 0, 1, 0), value=FIRST).flatten(1), kept)
        return Selection(torch.cat([clip.index.gather(1, place), clip.loose], dim=1).sort(dim=1).values)
