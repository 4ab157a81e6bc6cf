"""Training of the decoder: from visual tokens and packed questions to the loss on the answers.

In stage "read" the decoder gets sums of learned label embeddings in place of visual tokens, so that it learns to find
and compare things independently of a vision tower. In stage "answer" it gets the projected features of the frozen
vision tower. Both use :func:`answer_loss`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from clasp.tiny.labels import FACTORS
from clasp.tiny.scene import COLORS, GRID, LIGHTS, MATERIALS, NAMES, PLACES, WEATHERS
from clasp.tiny.training.images import GROUPS, IGNORE
from clasp.tiny.training.loop import device
from clasp.tiny.training.model import VISUAL_TOKENS
from clasp.tiny.training.packing import Packer, Rows, attention_bias
from clasp.tiny.training.withdrawing import decode


class LabelEmbedding(nn.Module):
    """One embedding per class of every factor; a patch's embedding is the sum over its factors, with unit variance."""

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
        """``(batch, factors, patches)`` classes to ``(batch, patches, width)``; unknown classes contribute zero."""
        known = labels >= 0
        rows = (labels + self.starts[None, :, None]).masked_fill(~known, 0)
        return (self.table[rows] * known[..., None]).sum(1)


def _class_words() -> list[str]:
    """The word for each class of each factor, empty if there is none."""
    thirds = GRID // 3
    words = ["", *NAMES, "sign", "", *COLORS, "", *MATERIALS, "", ""]
    words += ["", *(chr(65 + n) for n in range(26)), *(str(n) for n in range(10))]
    words += [*PLACES, *LIGHTS, *WEATHERS]
    words += ["top"] * thirds + ["middle"] * thirds + ["bottom"] * thirds
    return words + ["left"] * thirds + ["middle"] * thirds + ["right"] * thirds


def choose_tokens(objects: Tensor, count: int, seed: int) -> Tensor:
    """Indices ``(batch, count)``, ascending: covered patches first, then random background; all if count is 576."""
    if count >= VISUAL_TOKENS:
        return torch.arange(VISUAL_TOKENS).expand(objects.shape[0], -1)
    noise = torch.rand(objects.shape, generator=torch.Generator().manual_seed(seed))
    return (noise + objects).topk(count, dim=1).indices.sort(dim=1).values


def choose_places(kept: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order and rotary positions of the visual tokens, and the position of the next token, counted from the first one.

    Half of the rows keep the original positions, as in inference with original positions. The others are numbered
    without gaps, with random gaps, or in random order. The decoder thus learns a token's place from its content, and
    re-indexed positions cost little.

    Args:
        kept: ``(batch, kept)`` indices in the image, ascending.
    Returns:
        ``(batch, kept)`` permutations of the columns, ``(batch, kept)`` positions and ``(batch, 1)`` of the next token.
    """
    rng = np.random.default_rng([seed, 1])
    batch, count = kept.shape
    orders, places, ends = [], [], []
    for row in range(batch):
        way = rng.choice(4, p=[0.5, 0.2, 0.2, 0.1])
        orders.append(rng.permutation(count) if way == 3 else np.arange(count))
        gaps = np.sort(rng.choice(count + int(rng.integers(1, VISUAL_TOKENS)), count, replace=False))
        places.append((kept[row].numpy(), np.arange(count), gaps, np.arange(count))[way])
        ends.append([VISUAL_TOKENS if way == 0 else places[-1][-1] + 1])
    return torch.from_numpy(np.stack(orders)), torch.from_numpy(np.stack(places)), torch.tensor(ends)


def answer_loss(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    visual: Tensor,
    places: Tensor,
    ends: Tensor,
    rows: Rows,
    withdrawn: int,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy on the answers' tokens; for the log, the accuracy of the first answer token per group.

    Args:
        visual: ``(batch, kept, width)`` visual tokens in the decoder's space.
        places: ``(batch, kept)`` their rotary positions, counted from the first position after the prefix.
        ends: ``(batch, 1)`` the position after the last of them.
        withdrawn: the first decoder layer that runs without visual tokens, see :func:`decode`.
    """
    where = device()
    batch = visual.shape[0]
    decoder = model.model.language_model
    before = torch.tensor(packer.before, device=where).expand(batch, -1)
    after = torch.tensor(packer.after, device=where).expand(batch, -1)
    words = decoder.embed_tokens
    embeds = torch.cat([words(before), visual, words(after), words(rows.tokens.to(where))], dim=1)
    start = torch.arange(len(packer.before)).expand(batch, -1)
    end = ends + len(packer.before)
    positions = torch.cat([start, places + len(packer.before), end, rows.positions + end + 1], dim=1).to(where)
    prefix = embeds.shape[1] - rows.tokens.shape[1]
    bias = attention_bias(prefix, rows.segments.to(where), torch.bfloat16)
    shown = slice(len(packer.before), len(packer.before) + visual.shape[1])
    hidden = decode(decoder, embeds, bias, positions, shown, withdrawn)
    answered = hidden[:, prefix - visual.shape[1] :]
    asked = (rows.targets != IGNORE).to(where)
    logits = model.lm_head(answered[asked]).float()
    targets = rows.targets.to(where)[asked]
    right = logits.argmax(-1) == targets
    groups = rows.groups.to(where)[asked]
    numbers = {
        group.removeprefix("tiny_"): right[groups == number].float().mean().item()
        for number, group in enumerate(GROUPS)
        if (groups == number).any()
    }
    return functional.cross_entropy(logits, targets), numbers
