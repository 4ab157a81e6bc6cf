"""What the LLaVA families share: a CLIP or SigLIP tower over square crops, and a projector."""

from __future__ import annotations

from abc import abstractmethod
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from clasp.backbones.base import Adapter, Modality, Projection, UnsupportedError, VisionPass, rasters, text_geometry
from clasp.budget import Geometry
from clasp.ops.attention import attention_received, attention_rows
from clasp.ops.similarity import blocks

CLS = {"clip_vision_model": True, "siglip_vision_model": False}
"""Vision towers that are covered -> whether they have a CLS token, which the projector does not see."""


class CropAdapter(Adapter):
    """A family whose ViT sees square crops: hidden states are (crops, sequence, dim), all media's crops in order."""

    def tower(self, modality: Modality) -> nn.Module:
        return self.model.model.vision_tower

    def vision_layers(self, modality: Modality) -> nn.ModuleList:
        tower: Any = self.tower(modality)
        return tower.encoder.layers

    def project(self, features: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(features)

    @abstractmethod
    def crop_counts(self, vision_pass: VisionPass) -> list[int]:
        """Crops of each medium of a pass, in order."""

    @abstractmethod
    def pack(self, vision_pass: VisionPass, item: int, blocks: Tensor, newline: Tensor) -> Tensor:
        """(crops, patches, dim) values of one medium -> (tokens, dim) in placeholder order.

        Args:
            newline: (dim,) what newline tokens get, where the family has them.
        """

    @property
    def newline(self) -> Tensor:
        """(hidden,) what the family puts at a newline token."""
        return getattr(self.model.model, "image_newline", torch.empty(0))

    def drops_cls(self, modality: Modality) -> bool:
        """Whether the projector sees the patches alone."""
        return self.geometry.cls

    def reassemble(self, vision_pass: VisionPass, item: int, blocks: Tensor) -> Tensor:
        return self.pack(vision_pass, item, self.project(blocks), self.newline)

    def blocks(self, vision_pass: VisionPass, item: int, values: Tensor) -> Tensor:
        start, end = self._range(vision_pass, item)
        return values[start:end, int(self.drops_cls(vision_pass.modality)) :]

    def arrange(self, vision_pass: VisionPass, item: int, values: Tensor, joined: bool = False) -> Tensor:
        return self.pack(vision_pass, item, self.blocks(vision_pass, item, values), values.new_zeros(values.shape[-1]))

    def crop_total(self, vision_pass: VisionPass, item: int) -> int:
        return self.crop_counts(vision_pass)[item]

    def crops(self, vision_pass: VisionPass, item: int) -> Tensor:
        # packs each crop's own number, one-hot, so that whatever the family does to crops is done to it too
        start, end = self._range(vision_pass, item)
        marks = torch.eye(end - start, device=vision_pass.output.last_hidden_state.device)[:, None]
        marks = marks.expand(-1, self.patches + int(self.geometry.cls), -1)
        marks = marks[:, int(self.drops_cls(vision_pass.modality)) :]
        packed = self.pack(vision_pass, item, marks, marks.new_zeros(marks.shape[-1]))
        return packed.argmax(dim=1).masked_fill(packed.sum(dim=1) < 0.5, -1)

    @property
    def side(self) -> int:
        """Patches along one side of a crop."""
        vision = self.model.config.vision_config
        return vision.image_size // vision.patch_size

    @property
    def patches(self) -> int:
        """Patches of a crop."""
        return self.side**2

    def cls_states(self, vision_pass: VisionPass, item: int, state: Tensor) -> Tensor:
        if not self.geometry.cls:
            return super().cls_states(vision_pass, item, state)
        start, end = self._range(vision_pass, item)
        return state[start:end, 0]

    def vision_keys(self, vision_pass: VisionPass, layer: int) -> Tensor:
        return self._queries_keys(vision_pass, layer)[1].mean(dim=1)

    def vision_attention(self, vision_pass: VisionPass, layer: int) -> Tensor:
        query, key, scaling = self._pooling_queries_keys(vision_pass, layer)
        return self._attention(query, key, scaling, vision_pass.merged)

    def _merged_attention(self, query: Tensor, key: Tensor, scaling: float, merged: Tensor) -> Tensor:
        """As :meth:`vision_attention` of unmerged states in which patches of one group, (crops, patches) long, are
        copies: a softmax over one of each group, whose value all of it has."""
        places = torch.arange(merged.shape[1], device=merged.device).expand_as(merged)
        first = torch.full_like(merged, merged.shape[1]).scatter_reduce(1, merged, places, "amin").gather(1, merged)
        cls = places[:, : int(self.geometry.cls)]
        one = torch.cat([torch.ones_like(cls, dtype=torch.bool), first == places], dim=1)
        if self.geometry.cls:
            attention = attention_rows(query[:, :, :1], key, one[:, None], scaling).transpose(1, 2)
        else:
            received = [
                (attention_rows(query[:, :, rows], key, one[:, None], scaling) * one[:, rows, None]).sum(dim=1)
                for rows in blocks(query.shape[2], query.shape[1] * key.shape[2])
            ]
            attention = torch.stack(received).sum(dim=0)[..., None] / one.sum(dim=1)[:, None, None]
        return attention.gather(1, torch.cat([cls, first + cls.shape[1]], dim=1)[..., None])

    def _attention(self, query: Tensor, key: Tensor, scaling: float, merged: Tensor | None) -> Tensor:
        """(crops, heads, sequence, head_dim) each -> (crops, sequence, 1), mean over the heads; ``merged`` as in
        :class:`VisionPass`."""
        if merged is not None:  # what was dropped is a copy of the first patch that stayed
            return self._merged_attention(query, key, scaling, merged.clamp(min=0))
        if not self.geometry.cls:
            return attention_received(query, key, scaling)[..., None]
        everywhere = torch.ones(len(query), 1, key.shape[2], dtype=torch.bool, device=key.device)
        return attention_rows(query[:, :, :1], key, everywhere, scaling).transpose(1, 2)

    def vision_received(self, vision_pass: VisionPass, layer: int, others: bool = False) -> Tensor:
        skip = int(self.geometry.cls) if others else None
        return attention_received(*self._queries_keys(vision_pass, layer), skip)[..., None]

    def vision_attention_heads(self, vision_pass: VisionPass, layer: int) -> Tensor:
        query, key, scaling = self._pooling_queries_keys(vision_pass, layer)
        heads = zip(query.split(1, dim=1), key.split(1, dim=1), strict=True)
        return torch.cat([self._attention(q, k, scaling, vision_pass.merged) for q, k in heads], dim=-1)

    def vision_heads(self, vision_pass: VisionPass, layer: int, kind: Projection) -> Tensor:
        return self._projected(vision_pass, layer, kind).transpose(1, 2).flatten(2)

    @property
    def vision_head_count(self) -> int:
        return self.model.config.vision_config.num_attention_heads

    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        cls = int(self.geometry.cls and not self.drops_cls(vision_pass.modality))
        return rasters(self.crop_counts(vision_pass)[item], self.side, self.side, cls)

    def keys_of(self, modality: Modality, layer: int, hidden: Tensor) -> Tensor:
        """(crops, sequence, head_dim) head-mean keys of a layer from its input, for merging inside the tower."""
        return self.heads_of(modality, layer, hidden, "k").mean(dim=1)

    def heads_of(self, modality: Modality, layer: int, hidden: Tensor, kind: Projection) -> Tensor:
        """(crops, heads, sequence, head_dim) queries, keys or values of a layer from its input."""
        block: Any = self.vision_layers(modality)[layer]
        attention = self._attending(block)
        heads = self._projection(attention, kind, self._normed(block, hidden))
        return heads.unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)

    def vision_scaling(self, modality: Modality, layer: int) -> float:
        """Factor on the products of a layer's queries and keys."""
        return self._attending(self.vision_layers(modality)[layer]).scale

    def _pooling_queries_keys(self, vision_pass: VisionPass, layer: int) -> tuple[Tensor, Tensor, float]:
        """As :meth:`_queries_keys`, with CLS's query alone where there is one."""
        hidden = vision_pass.states[layer]
        query = self.heads_of(vision_pass.modality, layer, hidden[:, :1] if self.geometry.cls else hidden, "q")
        return query, self._projected(vision_pass, layer, "k"), self.vision_scaling(vision_pass.modality, layer)

    def _queries_keys(self, vision_pass: VisionPass, layer: int) -> tuple[Tensor, Tensor, float]:
        """Queries and keys (crops, heads, sequence, head_dim) of ViT layer ``layer`` from its input; the scaling."""
        scaling = self.vision_scaling(vision_pass.modality, layer)
        return self._projected(vision_pass, layer, "q"), self._projected(vision_pass, layer, "k"), scaling

    def _projected(self, vision_pass: VisionPass, layer: int, kind: Projection) -> Tensor:
        """(crops, heads, sequence, head_dim)."""
        return self.heads_of(vision_pass.modality, layer, vision_pass.states[layer], kind)

    def _normed(self, block: Any, hidden: Tensor) -> Tensor:
        """What a ViT layer's attention sees of its input."""
        return block.layer_norm1(hidden)

    def _attending(self, block: Any) -> Any:
        """A ViT layer's attention."""
        return block.self_attn

    def _projection(self, attention: Any, kind: Projection, normed: Tensor) -> Tensor:
        """(crops, sequence, heads * head_dim) queries, keys or values of a ViT layer."""
        return getattr(attention, f"{kind}_proj")(normed)

    def _range(self, vision_pass: VisionPass, item: int) -> tuple[int, int]:
        ends = list(accumulate(self.crop_counts(vision_pass)))
        return (ends[item - 1] if item else 0), ends[item]


def crop_geometry(config: Any, visual_tokens: int, dynamic: bool = False, videos: bool = False) -> Geometry:
    """Counts of a LLaVA family from its configuration.

    Raises:
        UnsupportedError: a vision tower or feature selection that is not covered.
    """
    from clasp.backbones.hub import own_text_tower  # here, so that its code is in no method's fingerprint

    vision, layer = config.vision_config, config.vision_feature_layer
    if vision.model_type not in CLS:
        raise UnsupportedError(
            f"{config.model_type} with a {vision.model_type} vision tower is not covered; use one with "
            f"{' or '.join(CLS)}"
        )
    strategy = "default" if CLS[vision.model_type] else "full"
    if config.vision_feature_select_strategy != strategy:
        raise UnsupportedError(
            f"{config.model_type} with a {vision.model_type} and feature selection "
            f"{config.vision_feature_select_strategy!r} is not covered; use {strategy!r}"
        )
    if not isinstance(layer, int):
        raise UnsupportedError(f"vision_feature_layer={layer} names several layers; only one is covered")
    feature_layer = layer if layer >= 0 else vision.num_hidden_layers + 1 + layer
    if feature_layer == vision.num_hidden_layers and getattr(vision, "tie_last_hidden_states", None):
        raise UnsupportedError(
            f"{config.model_type} with tie_last_hidden_states has its last ViT hidden state normalised, which is not "
            "covered; leave that option of the vision configuration unset"
        )
    refuse_sliding_window(config)
    text: dict[str, Any] = text_geometry(config.text_config)
    return Geometry(
        visual_tokens=visual_tokens,
        vision_layers=vision.num_hidden_layers,
        feature_layer=feature_layer,
        cls=CLS[vision.model_type],
        dynamic=dynamic,
        text_tower=CLS[vision.model_type] and own_text_tower(config.name_or_path) is not None,
        videos=videos,
        **text,
    )


def refuse_sliding_window(config: Any) -> None:
    """Raises UnsupportedError where the decoder attends in a sliding window, whose distances pruning would change."""
    if getattr(config.text_config, "sliding_window", None) is not None:
        raise UnsupportedError(
            f"{config.model_type} with sliding-window attention in its decoder is not covered; set sliding_window to "
            "None where prompts are shorter than the window"
        )
