"""Stage "gather": the class token comes to attend to everything that an image shows, not to large things alone.

Captions leave out small things and half of the signs, and a class token that has learnt from such captions looks past
them. CLIP's has learnt from captions without number; published methods that keep what it attends to lose little at 64
tokens. So, as an assumption about real towers and not a finding, each thing and each letter of the image is to have a
share of the class token's attention in the last layers. Patches are held to what the decoder knows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from clasp.tiny.labels import FACTORS
from clasp.tiny.training.features import to_pixels
from clasp.tiny.training.images import IGNORE, Batch
from clasp.tiny.training.loop import device
from clasp.tiny.training.model import VISION_LAYERS
from clasp.tiny.training.seeing import contrastive_loss, hidden_states

_LAYERS = range(VISION_LAYERS - 4, VISION_LAYERS)
"""Layers of the tower whose class token is taught; the second to last makes the feature layer."""
_HOLD_WEIGHT = 10.0
_LEAST_SHARE = 1e-4
_SHOWN = 64  # patches of most attention that the log counts


def gathering_loss(
    clip: CLIPModel, before: nn.Module, tokenizer: PreTrainedTokenizerFast, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on one batch: shares of attention, patches held, and the contrast with captions.

    The first is, per layer, the mean over what an image shows of -log of the class token's attention to it, so equal
    shares are best. The second is the mean square change of the patches' hidden states over their variance.

    Args:
        before: the vision tower as it was, frozen.

    Returns:
        The loss, and for the log, of the feature layer: ``moved`` as above, ``on`` the share of the 64 patches of most
        attention that show something, ``things`` and ``letters`` the shares of what is shown that they touch; ``clip``
        how often an image finds its caption.
    """
    where = device()
    pixels, labels = to_pixels(batch[0]).to(where), torch.from_numpy(batch[1]).to(where)
    tower = clip.vision_model
    loss = torch.zeros((), device=where)
    numbers: dict[str, float] = {}
    with torch.autocast(where.type, dtype=torch.bfloat16):
        with torch.no_grad():
            old = before(pixels, output_hidden_states=True).hidden_states
        states = list(hidden_states(clip, tower.embeddings(pixels)))
        for number, layer in enumerate(tower.encoder.layers):
            wanted = old[number + 1][:, 1:].float()
            moved = functional.mse_loss(states[number + 1][:, 1:].float(), wanted) / wanted.var()
            loss = loss + _HOLD_WEIGHT * moved
            if number in _LAYERS:
                attention = class_attention(layer, states[number])
                loss = loss + _share_loss(attention, labels)
                if number == _LAYERS[-2]:
                    numbers |= {"moved": moved.item(), **_reach(attention, labels)}
        embedded = clip.visual_projection(tower.post_layernorm(states[-1][:, 0]))
        contrast, right = contrastive_loss(clip, tokenizer, embedded, batch[2])
    return loss + contrast, numbers | {"clip": right}


def class_attention(layer: nn.Module, hidden: Tensor) -> Tensor:
    """The class token's attention to the patches in one layer, mean over heads; patches get no gradient through it.

    Args:
        layer: a layer of CLIP's vision tower.
        hidden: ``(batch, 1 + patches, width)`` before the layer, the class token first.

    Returns:
        ``(batch, patches)`` float32, which with its attention to itself sums to 1.
    """
    attend = layer.self_attn
    read = layer.layer_norm1(torch.cat([hidden[:, :1], hidden[:, 1:].detach()], dim=1))
    query, key = (
        part.unflatten(-1, (attend.num_heads, -1)).transpose(1, 2)
        for part in (attend.q_proj(read[:, :1]), attend.k_proj(read))
    )
    scores: Tensor = (query * attend.scale) @ key.transpose(-1, -2)
    return scores.float().softmax(-1)[:, :, 0, 1:].mean(1)


def _shown(labels: Tensor) -> list[tuple[Tensor, int]]:
    """What each patch ``(batch, patches)`` shows, 0 for nothing, and how many there could be: things of one name and
    color, and letters."""
    name, color, character = (labels[:, list(FACTORS).index(factor)] for factor in ("name", "color", "character"))
    known = (name != IGNORE) & (color != IGNORE)
    thing = torch.where(known & (name != 0), name * FACTORS["color"] + color, 0)
    return [(thing, FACTORS["name"] * FACTORS["color"]), (character.clamp(min=0), FACTORS["character"])]


def _share_loss(attention: Tensor, labels: Tensor) -> Tensor:
    loss, count = torch.zeros((), device=attention.device), torch.zeros((), device=attention.device)
    for maps, classes in _shown(labels):
        empty = attention.new_zeros(len(maps), classes)
        present = empty.scatter(1, maps, 1.0)[:, 1:]
        share = empty.scatter_add(1, maps, attention)[:, 1:]
        loss = loss - (present * (share + _LEAST_SHARE).log()).sum()
        count = count + present.sum()
    return loss / count.clamp(min=1.0)


@torch.no_grad()
def _reach(attention: Tensor, labels: Tensor) -> dict[str, float]:
    """What the patches of most attention show; see :func:`gathering_loss`."""
    chosen = attention.topk(_SHOWN, dim=1).indices
    numbers = {"on": (labels[:, 0] != 0).gather(1, chosen).float().mean().item()}
    for name, (maps, classes) in zip(("things", "letters"), _shown(labels), strict=True):
        present, kept = (
            attention.new_zeros(len(maps), classes).scatter(1, part, 1.0)[:, 1:]
            for part in (maps, maps.gather(1, chosen))
        )
        if present.any():
            numbers[name] = (kept.sum() / present.sum()).item()
    return numbers
