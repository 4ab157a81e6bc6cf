"""Stage "withdraw": the decoder learns to read the image in its first half, like large decoders.

LLaVA-1.5-7B loses little when all visual tokens are removed before layer 15 of 32 (VTW, arXiv 2405.05803; the layer is
from its official code): by then its text tokens contain the information. A decoder deepened from few layers reads
visual tokens up to its last layer, so methods that drop tokens inside it lose accuracy that they do not lose on
LLaVA-1.5-7B. In most batches of this stage, visual tokens are therefore removed before a random layer. The tokens that
a method would keep play no part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaModel


def decode(
    decoder: LlamaModel, embeds: Tensor, bias: Tensor, positions: Tensor, visual: slice, withdrawn: int
) -> Tensor:
    """The decoder's last hidden states of non-visual tokens; layers from ``withdrawn`` on run without visual tokens.

    Args:
        embeds: ``(batch, tokens, width)``.
        bias: ``(batch, 1, tokens, tokens)``, added to the scores.
        positions: ``(batch, tokens)``; the remaining tokens keep theirs.
        visual: indices of the visual tokens.
        withdrawn: first layer without visual tokens, 0-based; if not below the number of layers, only the result omits
            them.

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
