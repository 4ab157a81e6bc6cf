"""IVC-Prune: tokens whose values resemble the question's, and those whose positions serve as a frame of reference.

Sun et al., "IVC-Prune: Revealing the Implicit Visual Coordinates in LVLMs for Vision Token Pruning", arXiv 2602.03060.
Before decoder layer 16 of 32, W is the softmax over all tokens of the products of their values in the layer before,
without a causal mask, mean over heads. Seeds are the visual tokens of the highest mean W over the rows of the question;
the foreground those of the highest mean W over the rows of question and seeds; implicit visual coordinates those at
whose positions the rotary embedding's cosines, or its sines, are highest on average. What is left out also leaves the
KV cache of all layers before. Original positions are kept, and no attention map is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clasp.budget import Accounting
from clasp.methods.one_layer import OneLayer
from clasp.methods.protocols import Decoder, Selection, State
from clasp.ops.select import take, top_k
from clasp.ops.similarity import blocks

SEEDS, COORDINATES, ALL = 0.01, 0.05, 0.31
"""Shares of an image's tokens in the official code: seeds; coordinates by cosine, and as many by sine; and the most
that can stay in all, which is these three and 0.2 of foreground."""
BEHIND = 2
"""Tokens right after the image that the official code does not count as the question's."""
HELD = 1 << 26
"""Most probabilities in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class IVCPrune(OneLayer):
    """IVC-Prune (arXiv 2602.03060).

    Its prefill is whole up to the stage's layer, so that a budget counts what stays there and in the KV cache of every
    layer (``nominal``); by ``output_average`` few budgets can be met.

    Args:
        layer: the first decoder layer that computes on the reduced set, at least 1; None: 16 of 32 layers, moved to the
            same relative depth of other decoders.
    """

    name: ClassVar[str] = "ivcprune"
    label: ClassVar[str] = "IVC-Prune"
    paper: ClassVar[str] = "2602.03060"
    inside: ClassVar[bool] = True
    lookback: ClassVar[int] = 1
    cuts_passed: ClassVar[bool] = True
    accountings: ClassVar[tuple[Accounting, ...]] = ("nominal", "output_average")
    assumptions: ClassVar[tuple[str, ...]] = (
        "IVC-Prune's layer 16 of 32 scales with the decoder's depth; its code names one for each model",
        "IVC-Prune's budget: its shares (1 % seeds, 5 % by cosine, 5 % by sine of the 31 % that it keeps at most) "
        "scale with it, and the foreground fills it up; its code's counts depend on how many coincide",
        "IVC-Prune's cache is cut in every layer passed, as its paper says; its code leaves that of the first whole",
    )
    accounting: Accounting = "nominal"
    published_layer: ClassVar[int] = 16  # for LLaVA-1.5-7B; the settings have 2 for Qwen2-VL-7B, 22 for Qwen2.5-VL-3B

    def select(self, state: State, keep: int) -> Selection:
        layer = state.decoder()
        visual, text = layer.heads("v"), layer.real("text")
        early = torch.arange(text.shape[1], device=text.device) < BEHIND
        question = text & ~(early & (text.sum(dim=1, keepdim=True) > BEHIND))
        to_question = resembled(layer, layer.heads("v", "text"), question)
        seeds = top_k(to_question, max(1, round(keep * SEEDS / ALL)))
        to_seeds = resembled(layer, take(visual.transpose(1, 2), seeds).transpose(1, 2), torch.ones_like(seeds).bool())

        count = round(keep * COORDINATES / ALL)
        coordinates = torch.cat([top_k(part.float().mean(dim=2), count) for part in layer.rotary()], dim=1)
        placed = torch.zeros_like(to_question).bool().scatter(1, coordinates, True)
        first = placed.scatter(1, seeds, True)
        index = top_k((to_question + to_seeds).masked_fill(first, float("inf")), keep)
        return Selection(index, pivots=~placed.gather(1, index))


def resembled(layer: Decoder, values: Tensor, real: Tensor) -> Tensor:
    """(rows, visual) float32: softmax over the whole prompt of the products of some tokens' values with all, at the
    visual tokens, mean over heads and summed over the tokens.

    Args:
        values: (rows, heads, any, head_dim) of these tokens.
        real: (rows, any) bool, which of them count.
    """
    visual, everything = (layer.heads("v", of).float().transpose(-1, -2) for of in ("visual", "prompt"))
    padding = ~layer.real("prompt")[:, None, None]
    values = values.float() * values.shape[-1] ** -0.5
    total = torch.zeros(len(values), visual.shape[-1], device=values.device)
    for part in blocks(values.shape[2], len(values) * values.shape[1] * everything.shape[-1], HELD):
        some = values[:, :, part]
        whole = (some @ everything).masked_fill(padding, float("-inf")).logsumexp(dim=-1, keepdim=True)
        total += torch.einsum("bhrw,br->bw", torch.exp(some @ visual - whole), real[:, part].float())
    return total / values.shape[1]
