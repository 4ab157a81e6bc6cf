"""Stages "see" and "refine": the vision tower learns from captions, as CLIP did, and from dense labels of the patches.

The class token feeds the contrastive loss: it collects the content of captions, which makes its attention informative.
The dense labels keep patches local: each patch encodes the thing that covers it and its own position, so dropping it
loses that information. One linear head is trained on the feature layer and, with smaller weights, on layers around it,
so that neighbouring layers have similar features, as in a deep tower.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from clasp.tiny.labels import FACTORS
from clasp.tiny.scene import GRID
from clasp.tiny.training.features import to_pixels
from clasp.tiny.training.images import IGNORE, Batch
from clasp.tiny.training.loop import device
from clasp.tiny.training.model import VISION_LAYERS

_FACTOR_WEIGHT = {
    # few of the sampled patches show letters or middles, so their share of the mean is small
    "name": 1.5,
    "character": 4.0,
    "middle": 4.0,
    "material": 0.5,
    "row": 0.3,
    "column": 0.3,
    "place": 0.3,
    "light": 0.2,
    "weather": 0.3,
}
_LAYER_WEIGHT = {
    6: 0.05,
    8: 0.1,
    10: 0.2,
    11: 1.0,
    12: 0.1,
}  # hidden state of a 12-layer tower (0: embedding) -> weight of its loss
_PATCHES_ASKED = 160  # per image: every patch of a thing, the rest sampled from the background
_WINDOWS_KEPT = 2
_MOST_TEXT = 76
_LARGEST_SCALE = 4.6052  # ln 100, CLIP's bound on the inverse temperature's logarithm


class PatchHead(nn.Module):
    """A linear probe on patches, for all factors at once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(FACTORS.values()))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """``(..., width)`` to logits ``(..., classes)`` per factor."""
        parts = self.patch(tokens).float().split(list(FACTORS.values()), dim=-1)
        return dict(zip(FACTORS, parts, strict=True))


def seeing_loss(
    clip: CLIPModel,
    head: PatchHead,
    tokenizer: PreTrainedTokenizerFast,
    batch: Batch,
    seed: int,
    windowed: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """The stage's loss on one batch; for the log, accuracies on covered patches and of the contrastive task.

    With ``windowed``, attention is limited to quarters of a randomly shifted image, each with its own class token. Only
    the two quarters with the most covered patches are computed, and the image's embedding is the mean of theirs. This
    saves the time of attention and empty background on a CPU.
    """
    where = device()
    pixels, labels = to_pixels(batch[0]).to(where), torch.from_numpy(batch[1]).to(where)
    tower = clip.vision_model
    with torch.autocast(where.type, dtype=torch.bfloat16):
        tokens = tower.embeddings(pixels)  # (batch, 1 + 576, width)
        windows = 1
        if windowed:
            offset = torch.randint(GRID, (2,), generator=torch.Generator().manual_seed(seed))
            shift = (int(offset[0]), int(offset[1]))
            windows = _WINDOWS_KEPT
            chosen = (_windows(labels, shift)[:, :, 0] != 0).sum(-1).topk(windows, dim=1).indices
            labels, patches = (
                maps.gather(1, chosen[:, :, None, None].expand(-1, -1, *maps.shape[2:])).flatten(0, 1)
                for maps in (_windows(labels, shift), _windows(tokens[:, 1:].transpose(1, 2), shift))
            )
            tokens = torch.cat([tokens[:, :1].repeat_interleave(windows, 0), patches.transpose(1, 2)], dim=1)
        asked = _asked_patches(labels, seed, _PATCHES_ASKED // windows)  # (windows, asked)
        targets = labels.gather(2, asked[:, None].expand(-1, labels.shape[1], -1))
        loss = torch.zeros((), device=where)
        numbers: dict[str, float] = {}
        hidden = tokens
        weights = layer_weights(len(tower.encoder.layers))
        for layer, hidden in enumerate(hidden_states(clip, tokens)):
            if layer in weights:
                index = asked[..., None].expand(-1, -1, hidden.shape[-1]) + 1
                logits = head(hidden.gather(1, index))
                loss = loss + weights[layer] * _patch_loss(logits, targets)
                numbers = _accuracies(logits, targets) if weights[layer] == 1 else numbers
        read = tower.post_layernorm(hidden[:, 0])
        read = read.reshape(pixels.shape[0], windows, -1).mean(1)
        contrast, right = contrastive_loss(clip, tokenizer, clip.visual_projection(read), batch[2])
    return loss + contrast, numbers | {"clip": right}


def contrastive_loss(
    clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, images: Tensor, captions: list[str]
) -> tuple[Tensor, float]:
    """CLIP's symmetric cross-entropy over the batch, and the share of images whose own caption ranks first."""
    padded = tokenizer([f"{text}</s>" for text in captions], padding=True, padding_side="right", return_tensors="pt")
    ids = padded["input_ids"][:, : _MOST_TEXT + 1].to(images.device)
    ids[:, -1] = torch.where(ids[:, -1] == tokenizer.pad_token_id, ids[:, -1], tokenizer.eos_token_id)
    texts = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
    images = functional.normalize(images.float(), dim=-1)
    texts = functional.normalize(texts.float(), dim=-1)
    scale = clip.logit_scale.clamp(max=_LARGEST_SCALE).exp()
    logits = scale * images @ texts.T
    wanted = torch.arange(len(captions), device=images.device)
    loss = (functional.cross_entropy(logits, wanted) + functional.cross_entropy(logits.T, wanted)) / 2
    return loss, (logits.argmax(1) == wanted).float().mean().item()


def layer_weights(layers: int) -> dict[int, float]:
    """Weight of the dense loss per hidden state of a tower with ``layers`` layers; a shallower tower uses the weights
    of its states after deepening."""
    if layers == VISION_LAYERS:
        return _LAYER_WEIGHT
    return {-(-state * layers // VISION_LAYERS): weight for state, weight in sorted(_LAYER_WEIGHT.items())[:-1]}


def _windows(maps: Tensor, shift: tuple[int, int]) -> Tensor:
    """``(batch, channels, 576)`` to ``(batch, 4, channels, 144)``: quarters of the grid rolled by ``shift``."""
    batch, channels, side = maps.shape[0], maps.shape[1], GRID // 2
    grid = maps.reshape(batch, channels, GRID, GRID).roll(shift, dims=(2, 3))
    cut = grid.reshape(batch, channels, 2, side, 2, side).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(batch, 4, channels, side * side)


def hidden_states(clip: CLIPModel, tokens: Tensor) -> Iterator[Tensor]:
    """The hidden states of the vision tower, starting with its embeddings, numbered as in its own forward."""
    tower = clip.vision_model
    hidden = tower.pre_layrnorm(tokens)
    yield hidden
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=None)
        yield hidden


def _patch_loss(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    losses = []
    for n, factor in enumerate(FACTORS):
        if (targets[:, n] != IGNORE).any():
            losses.append(
                _FACTOR_WEIGHT.get(factor, 1.0)
                * functional.cross_entropy(logits[factor].flatten(0, 1), targets[:, n].flatten(), ignore_index=IGNORE)
            )
    return torch.stack(losses).sum()


def _asked_patches(labels: Tensor, seed: int, count: int) -> Tensor:
    noise = torch.rand(labels.shape[0], labels.shape[2], generator=torch.Generator().manual_seed(seed))
    return (noise.to(labels.device) + 2 * (labels[:, 0] != 0)).topk(count, dim=1).indices


def _accuracies(logits: dict[str, Tensor], targets: Tensor) -> dict[str, float]:
    """Accuracy per factor on covered patches; of the place on all patches."""
    numbers = {}
    for n, factor in enumerate(FACTORS):
        known = targets[:, n] > 0
        if factor in ("name", "color", "material", "middle", "character", "place", "weather") and known.any():
            numbers[factor[:4]] = (logits[factor].argmax(-1) == targets[:, n])[known].float().mean().item()
    return numbers
