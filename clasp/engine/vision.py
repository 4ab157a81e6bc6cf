"""What the vision tower computed for the images of a prefill."""

from __future__ import annotations

import torch
from torch import Tensor

from clasp.backbones.base import Adapter
from clasp.ops.attention import attention_rows


class VisionPass:
    """What the hooks caught of the vision tower's latest forward."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.states: dict[int, Tensor] = {}
        self.output: Tensor | None = None


class VisionTower:
    """The ViT's hidden states of one pass, and what follows from them (implements :class:`Vision`).

    Args:
        images: restricts every answer to these images, in order; None: all.
    """

    def __init__(self, adapter: Adapter, seen: VisionPass, images: Tensor | None = None) -> None:
        self._adapter, self._seen, self._images = adapter, seen, images
        self.feature_layer = adapter.geometry.feature_layer

    def _state(self, index: int) -> Tensor:
        if index not in self._seen.states:
            raise ValueError(f"ViT hidden state {index} was not asked for; name it in the method's vision_states")
        state = self._seen.states[index]
        return state if self._images is None else state[self._images]

    def hidden_state(self, index: int) -> Tensor:
        return self._adapter.patches(self._state(index))

    def cls_state(self, index: int) -> Tensor:
        return self._adapter.cls_state(self._state(index))

    def cls_attention(self, layer: int) -> Tensor:
        query, key, scaling = self._adapter.vision_queries_keys(layer, self._state(layer))
        everywhere = torch.ones(len(query), 1, key.shape[2], dtype=torch.bool, device=key.device)
        rows = attention_rows(query[:, :, :1], key, everywhere, scaling)
        return self._adapter.patches(rows.transpose(1, 2)).squeeze(-1)

    def keys(self, layer: int) -> Tensor:
        _, key, _ = self._adapter.vision_queries_keys(layer, self._state(layer))
        return self._adapter.patches(key.mean(dim=1))

    def project(self, features: Tensor) -> Tensor:
        return self._adapter.project(features)
