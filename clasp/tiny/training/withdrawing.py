"""Stage "withdraw": the decoder comes to read the image in its first half, as large ones do.

LLaVA-1.5-7B loses little when all visual tokens are withdrawn before layer 15 of 32 (VTW, arXiv 2405.05803, and the
layer in its official code): by then its text tokens hold what they need. A decoder deepened from few layers goes on
reading to its end, and methods that drop tokens inside it lose here what they do not lose there. So most batches are
answered with the visual tokens withdrawn before a layer drawn anew. Which tokens a method would keep plays no part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaModel


def decode(
    decoder: LlamaModel, embeds: Tensor, bias: Tensor, positions: Tensor, visual: slice, withdrawn: int
) -> Tensor:
    """The decoder's last hidden states of the other tokens; layers from ``withdrawn`` on run without visual ones.

    Args:
        embeds: ``(batch, tokens, width)``.
        bias: ``(batch, 1, tokens, tokens)``, added to the scores.
        positions: ``(batch, tokens)``; the tokens that stay keep theirs.
        visual: where the visual tokens stand.
        withdrawn: a layer, counted from 0; the number of layers or more: only the result is without visual tokens.

    Returns:
        ``(batch, tokens - visual tokens, width)``, after the last norm.
    """
    stay = torch.ones(embeds.shape[1], dtype=torch.bool, device=embeds.device)
    stay[visual] = False
    hidden = embeds
    rotary = decoder.rotary_emb(hidden, position_ids=positions)
    for number, layer in enumerate(decoder.layers):
        if number == withdrawn:
            hidden, rotary = hidden[:, stay], tuple(part[:, stay] for part in rotary)
            bias = bias[:, :, stay][..., stay]
        hidden = layer(hidden, attention_mask=bias, position_embeddings=rotary, use_cache=False)
    return decoder.norm(hidden if withdrawn < len(decoder.layers) else hidden[:, stay])
