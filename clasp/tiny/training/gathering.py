"""Stage "gather": the class token learns to attend to everything in an image, not only to large things.

Captions omit small things and half of the signs, and a class token trained on such captions ignores them. CLIP's class
token was trained on far more captions, and published methods that keep the patches it attends to lose little at 64
tokens. As an assumption about real towers, not a finding, each thing and each letter of the image therefore gets a
share of the class token's attention in the last layers. Patch features are kept close to those that the decoder knows.
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
"""Layers whose class-token attention is trained; the second to last outputs the feature layer."""
_HOLD_WEIGHT = 10.0
_LEAST_SHARE = 1e-4
_SHOWN = 64  # number of most attended patches counted in the log


def gathering_loss(
    clip: CLIPModel, before: nn.Module, tokenizer: PreTrainedTokenizerFast, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on one batch: an attention term, a term that holds the patches, and the contrastive loss.

    The attention term is, per layer, the mean of -log(class-token attention) over the things and letters in an image;
    equal shares minimize it. The patch term is the mean square change of the patches' hidden states over their
    variance.

    Args:
        before: the vision tower before this stage, frozen.

    Returns:
        The loss, and numbers for the log. For the feature layer: ``moved``, the patch term; ``on``, the share of the 64
        most attended patches that show something; ``things`` and ``letters``, the shares of things and letters that
        these patches touch. ``clip``: the share of images whose own caption ranks first.
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
    """The class token's attention to the patches in one layer, mean over heads; no gradient flows into the patches.

    Args:
        layer: a layer of CLIP's vision tower.
        hidden: ``(batch, 1 + patches, width)`` input of the layer, the class token first.

    Returns:
        ``(batch, patches)`` float32; these and the class token's attention to itself sum to 1.
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
    """Class shown by each patch ``(batch, patches)``, 0 for none, and the number of classes: for things (a class per
    name and color) and for letters."""
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
    """Content of the most attended patches; see :func:`gathering_loss`."""
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
