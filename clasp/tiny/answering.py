"""The decoder's part of training: from visual tokens and packed questions to the loss on the answers.

Stage "read" feeds the decoder with sums of learnt label embeddings in place of visual tokens, so that it learns to
find and compare things before it has to cope with a vision tower. Stage "answer" feeds it with the projected features
of the frozen vision tower. Both go through :func:`answer_loss`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from clasp.tiny.loop import device
from clasp.tiny.model import VISUAL_TOKENS
from clasp.tiny.packing import GROUPS, IGNORE, Packer, Rows, attention_bias
from clasp.tiny.seeing import ALL_COLORS, ALL_NAMES, FACTORS
from clasp.tiny.world import GRID, SEASONS, SIZES, TEXTURES


class LabelEmbedding(nn.Module):
    """One embedding per class of every factor; a patch is the sum over its factors, scaled to unit variance."""

    def __init__(self, words: nn.Embedding, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        width = words.embedding_dim
        table = torch.zeros(sum(FACTORS.values()), width)
        for row, word in enumerate(_class_words()):
            if word:
                ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                table[row] = words.weight[ids[0]].detach().cpu()
        table += 0.5 * torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
        self.table = nn.Parameter(table * len(FACTORS) ** -0.5)
        starts = torch.tensor([0, *FACTORS.values()][:-1]).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        """``(batch, factors, patches)`` classes to ``(batch, patches, width)``; unknown classes add nothing."""
        known = labels >= 0
        rows = (labels + self.starts[None, :, None]).masked_fill(~known, 0)
        return (self.table[rows] * known[..., None]).sum(1)


def _class_words() -> list[str]:
    """The word for each class of each factor, empty where there is none."""
    thirds = GRID // 3
    words = ["", *ALL_NAMES, "", *ALL_COLORS, "", *SIZES] + [""] * (FACTORS["part"] + FACTORS["character"])
    words += [*TEXTURES, *SEASONS]
    words += ["top"] * thirds + ["middle"] * thirds + ["bottom"] * thirds
    return words + ["left"] * thirds + ["middle"] * thirds + ["right"] * thirds


def choose_tokens(objects: Tensor, count: int, seed: int) -> Tensor:
    """Indices ``(batch, count)``, ascending: object patches first, then random background; all where count is 576."""
    if count >= VISUAL_TOKENS:
        return torch.arange(VISUAL_TOKENS).expand(objects.shape[0], -1)
    noise = torch.rand(objects.shape, generator=torch.Generator().manual_seed(seed))
    return (noise + objects).topk(count, dim=1).indices.sort(dim=1).values


def answer_loss(
    model: LlavaForConditionalGeneration, packer: Packer, visual: Tensor, kept: Tensor, rows: Rows
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy on the answers' tokens, with the share of right first answer tokens per group for the log.

    Args:
        visual: ``(batch, kept, width)`` visual tokens in the decoder's space.
        kept: ``(batch, kept)`` their indices in the image, ascending.
    """
    where = device()
    batch = visual.shape[0]
    decoder = model.model.language_model
    before = torch.tensor(packer.before, device=where).expand(batch, -1)
    after = torch.tensor(packer.after, device=where).expand(batch, -1)
    words = decoder.embed_tokens
    embeds = torch.cat([words(before), visual, words(after), words(rows.tokens.to(where))], dim=1)
    start = torch.arange(len(packer.before)).expand(batch, -1)
    end = torch.full((batch, 1), packer.first_position - 1)
    positions = torch.cat([start, kept + len(packer.before), end, rows.positions], dim=1).to(where)
    prefix = embeds.shape[1] - rows.tokens.shape[1]
    bias = attention_bias(prefix, rows.segments.to(where), torch.bfloat16)
    hidden = decoder(inputs_embeds=embeds, attention_mask=bias, position_ids=positions, use_cache=False)
    said = hidden.last_hidden_state[:, prefix:]
    asked = (rows.targets != IGNORE).to(where)
    logits = model.lm_head(said[asked]).float()
    targets = rows.targets.to(where)[asked]
    right = logits.argmax(-1) == targets
    groups = rows.groups.to(where)[asked]
    numbers = {
        group[:4]: right[groups == number].float().mean().item()
        for number, group in enumerate(GROUPS)
        if (groups == number).any()
    }
    return functional.cross_entropy(logits, targets), numbers
