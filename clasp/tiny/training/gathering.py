"""Stage "gather": the class token's attention comes to collect everything that an image shows, not the large things alone.

Captions leave out small things and half of the signs, and so does a class token that has learnt from captions alone. CLIP's,
trained on captions without number, gathers what most questions ask for: published methods that keep what it attends to lose
little at 64 tokens. So what each of the tower's last layers moves from the patches into the class token has to tell, by a
linear reader, every thing, color, surface and letter of the image, while the patches stay what the decoder knows.
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
from clasp.tiny.training.seeing import contrastive_loss, layer_weights

_READ = {8: 0.25, 9: 0.5, 10: 1.0, 11: 0.5}
"""Layer of the tower -> weight of the loss of what its class token gathers; 10 makes the feature layer."""
_TOLD = ("name", "color", "material", "character", "place", "light", "weather")
"""The factors that are to be told; classes 0 of the first four are the background and always there."""
_TOLD_WEIGHT = 0.2
_HOLD_WEIGHT = 10.0
_SHOWN = 64  # patches of most attention that the log counts


class GatheringReader(nn.Module):
    """One linear reader per layer, of what the class token gathered there: is a class of a factor anywhere in the image?"""

    def __init__(self, width: int) -> None:
        super().__init__()
        classes = sum(FACTORS[factor] for factor in _TOLD)
        self.layers_read = nn.ModuleDict({str(layer): nn.Linear(width, classes) for layer in _READ})

    def forward(self, gathered: Tensor, layer: int) -> Tensor:
        """``(batch, width)`` to logits ``(batch, classes)``, the factors of ``_TOLD`` one after another."""
        logits: Tensor = self.layers_read[str(layer)](gathered)
        return logits.float()


def gathering_loss(
    clip: CLIPModel, reader: GatheringReader, before: nn.Module, tokenizer: PreTrainedTokenizerFast, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on one batch: what the class token tells, the contrast with captions, and patches held.

    Args:
        before: the vision tower as it was, frozen; the patches' hidden states are held to its.

    Returns:
        The loss, and for the log: ``told`` the share of shown classes that the feature layer's reader finds, ``clip``
        how often an image finds its caption, ``moved`` the patches' mean square change over their variance, ``on``
        the share of the 64 patches of most attention that show something, ``things`` and ``letters`` the shares of
        shown names and letters that those 64 touch.
    """
    where = device()
    pixels, labels = to_pixels(batch[0]).to(where), torch.from_numpy(batch[1]).to(where)
    present, known = _presence(labels)
    held = layer_weights(VISION_LAYERS)
    tower = clip.vision_model
    loss = torch.zeros((), device=where)
    numbers: dict[str, float] = {}
    with torch.autocast(where.type, dtype=torch.bfloat16):
        with torch.no_grad():
            old = before(pixels, output_hidden_states=True).hidden_states
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for number, layer in enumerate(tower.encoder.layers):
            if number in _READ:
                attention, gathered = class_attention(layer, hidden)
                logits = reader(gathered, number)
                apart = functional.binary_cross_entropy_with_logits(logits, present, reduction="none")
                loss = loss + _READ[number] * _TOLD_WEIGHT * (apart * known).sum(1).mean()
                if _READ[number] == 1.0:
                    shown = (present * known) > 0
                    numbers |= {"told": (logits > 0)[shown].float().mean().item(), **_reach(attention, labels)}
            hidden = layer(hidden, attention_mask=None)
            state = number + 1
            if state in held:
                wanted = old[state][:, 1:].float()
                moved = functional.mse_loss(hidden[:, 1:].float(), wanted) / wanted.var()
                loss = loss + _HOLD_WEIGHT * held[state] * moved
                if held[state] == 1.0:
                    numbers["moved"] = moved.item()
        embedded = clip.visual_projection(tower.post_layernorm(hidden[:, 0]))
        contrast, right = contrastive_loss(clip, tokenizer, embedded, batch[2])
    return loss + contrast, numbers | {"clip": right}


def class_attention(layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What the class token does in one layer: its attention to the patches and what that moves into it.

    Args:
        layer: a layer of CLIP's vision tower.
        hidden: ``(batch, 1 + patches, width)`` before the layer.

    Returns:
        Attention ``(batch, heads, patches)``, which with the class token's to itself sums to 1, and the patches' values
        weighted by it, ``(batch, width)``.
    """
    attend = layer.self_attn
    read = layer.layer_norm1(hidden)
    batch, tokens, width = read.shape
    heads = attend.num_heads
    query = attend.q_proj(read[:, :1]).view(batch, 1, heads, -1).transpose(1, 2)
    key, value = (
        part(read).view(batch, tokens, heads, -1).transpose(1, 2) for part in (attend.k_proj, attend.v_proj)
    )
    scores = (query * attend.scale) @ key.transpose(-1, -2)
    weights = scores.float().softmax(-1)[..., 1:]
    gathered = weights.to(value.dtype) @ value[:, :, 1:]
    return weights[:, :, 0], gathered.transpose(1, 2).reshape(batch, width)


def _presence(labels: Tensor) -> tuple[Tensor, Tensor]:
    """``(batch, factors, patches)`` classes to ``(batch, classes)``: which occur, and of which the maps tell."""
    present, known = [], []
    for number, (factor, classes) in enumerate(FACTORS.items()):
        if factor in _TOLD:
            maps = labels[:, number]
            certain = maps != IGNORE
            shown = functional.one_hot(maps.clamp(min=0), classes) * certain[..., None]
            present.append(shown.any(1).float())
            known.append(certain.all(1, keepdim=True).float().expand(-1, classes))
    return torch.cat(present, 1), torch.cat(known, 1)


@torch.no_grad()
def _reach(attention: Tensor, labels: Tensor) -> dict[str, float]:
    """What the patches of most attention show; see :func:`gathering_loss`."""
    chosen = attention.mean(1).topk(_SHOWN, dim=1).indices
    factors = list(FACTORS)
    numbers = {}
    for name, factor in (("things", "name"), ("letters", "character")):
        maps = labels[:, factors.index(factor)]
        classes = FACTORS[factor]
        whole, kept = (
            functional.one_hot(part.clamp(min=0), classes).any(1)[:, 1:] for part in (maps, maps.gather(1, chosen))
        )
        if whole.any():
            numbers[name] = (kept & whole).sum().item() / whole.sum().item()
    covered = labels[:, 0] != 0
    return {"on": covered.gather(1, chosen).float().mean().item(), **numbers}
