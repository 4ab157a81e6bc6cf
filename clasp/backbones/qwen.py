"""What the Qwen-VL families share: a ViT at the image's own resolution, multimodal rotary positions.

The ViT takes all patches of a pass as one sequence, (patches of all media, dim), and attends within frames. A *unit*
of neighbouring patches (published: 2 x 2), always consecutive in that sequence, becomes one visual token in the merger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# both families define the same function, so that one import serves both
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from clasp.backbones.base import (
    Adapter,
    Encoder,
    Modality,
    Projection,
    UnsupportedError,
    VisionPass,
    rasters,
    split,
    text_geometry,
)
from clasp.budget import Geometry
from clasp.ops.attention import attention_received


class QwenAdapter(Adapter):
    """A family with a packed ViT. A medium's crops are its frames; the ViT takes two frames of a video as one."""

    encoders: ClassVar[Mapping[Modality, Encoder]] = {
        "image": Encoder("get_image_features", "pixel_values"),
        "video": Encoder("get_video_features", "pixel_values_videos"),
    }
    frames = 32  # max_num_frames of lmms-eval's own classes qwen2_5_vl and qwen3_vl, with which papers evaluate

    def tower(self, modality: Modality) -> nn.Module:
        return self.model.model.visual

    def vision_layers(self, modality: Modality) -> nn.ModuleList:
        tower: Any = self.tower(modality)
        return tower.blocks

    @property
    def unit(self) -> int:
        """Patches that make one visual token."""
        return self.model.config.vision_config.spatial_merge_size**2

    def grids(self, vision_pass: VisionPass) -> list[list[int]]:
        """Frames, rows and columns of patches of each medium of a pass, in order."""
        if "grids" not in vision_pass.memo:  # one transfer from the device a pass
            vision_pass.memo["grids"] = vision_pass.arguments[f"{vision_pass.modality}_grid_thw"].tolist()
        return vision_pass.memo["grids"]

    def unit_order(self, vision_pass: VisionPass) -> Tensor:
        """(visual tokens of the pass,) long: where the unit of each stands in tower layout. Frames never mix."""
        return torch.arange(sum(map(prod, self.grids(vision_pass))) // self.unit)

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        patches = vision_pass.arguments[self.encoders[vision_pass.modality].pixels]
        return split(patches, [prod(grid) for grid in self.grids(vision_pass)])[item]

    def project(self, features: Tensor) -> Tensor:
        tower: Any = self.tower("image")
        patches = features.reshape(-1, features.shape[-1] // self.unit)
        return tower.merger(patches).unflatten(0, features.shape[:-1])

    def reassemble(self, vision_pass: VisionPass, item: int, blocks: Tensor) -> Tensor:
        return self.project(blocks.unflatten(1, (-1, self.unit)).flatten(2))[0]

    # Inside the vision tower --------------------------------------------------------------------------------------

    def blocks(self, vision_pass: VisionPass, item: int, values: Tensor) -> Tensor:
        """Values of one medium in tower layout -> (1, patches, dim), the patches of a visual token side by side, visual
        tokens in placeholder order; all frames of a video together."""
        return self._units(vision_pass, item, values).flatten(0, 1)[None]

    def arrange(self, vision_pass: VisionPass, item: int, values: Tensor, joined: bool = False) -> Tensor:
        units = self._units(vision_pass, item, values)
        return units.flatten(1) if joined else units.mean(dim=1)

    def crops(self, vision_pass: VisionPass, item: int) -> Tensor:
        frames, rows, columns = self.grids(vision_pass)[item]
        return torch.arange(frames).repeat_interleave(rows * columns // self.unit)

    def crop_total(self, vision_pass: VisionPass, item: int) -> int:
        return self.grids(vision_pass)[item][0]

    def vision_keys(self, vision_pass: VisionPass, layer: int) -> Tensor:
        """Head-mean keys (patches, head_dim) before rotary embedding, because methods take them for what a patch shows:
        a rotation by place would make the same content dissimilar in two places."""
        return self._queries_keys(vision_pass, layer)[1].mean(dim=1)

    def vision_attention(self, vision_pass: VisionPass, layer: int) -> Tensor:
        """Attention (patches, 1) that each patch receives from all patches of its frame, with the layer's own rotary
        embedding. Also where the layer itself attends within windows: there a patch would compete only with its
        window's, and scores of different windows would not compare."""
        return self._received(vision_pass, layer, slice(None))

    def _received(self, vision_pass: VisionPass, layer: int, heads: slice, skip: int | None = None) -> Tensor:
        """(patches, 1), the mean over some heads; ``skip`` as of :func:`attention_received`."""
        attention: Any = self._block(vision_pass, layer).attn
        query, key = apply_rotary_pos_emb_vision(
            *self._queries_keys(vision_pass, layer), *vision_pass.inputs["position_embeddings"]
        )
        frames = [rows * columns for count, rows, columns in self.grids(vision_pass) for _ in range(count)]
        received = [
            attention_received(q.transpose(0, 1)[None], k.transpose(0, 1)[None], attention.scaling, skip)[0]
            for q, k in zip(split(query[:, heads], frames), split(key[:, heads], frames), strict=True)
        ]
        return torch.cat(received)[:, None]

    def vision_received(self, vision_pass: VisionPass, layer: int, others: bool = False) -> Tensor:
        return (
            self._received(vision_pass, layer, slice(None), 0) if others else self.vision_attention(vision_pass, layer)
        )

    def vision_attention_heads(self, vision_pass: VisionPass, layer: int) -> Tensor:
        return torch.cat(
            [self._received(vision_pass, layer, slice(head, head + 1)) for head in range(self.vision_head_count)], 1
        )

    def vision_heads(self, vision_pass: VisionPass, layer: int, kind: Projection) -> Tensor:
        return self._projected(vision_pass, layer)["qkv".index(kind)].flatten(1)

    @property
    def vision_head_count(self) -> int:
        return self.model.config.vision_config.num_heads

    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        count, rows, columns = self.grids(vision_pass)[item]
        side = self.model.config.vision_config.spatial_merge_size
        return rasters(count, rows // side, columns // side)

    def _block(self, vision_pass: VisionPass, layer: int) -> Any:
        return self.vision_layers(vision_pass.modality)[layer]

    def _queries_keys(self, vision_pass: VisionPass, layer: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (patches, heads, head_dim) of ViT layer ``layer`` before rotary embedding."""
        query, key, _ = self._projected(vision_pass, layer)
        return query, key

    def _projected(self, vision_pass: VisionPass, layer: int) -> tuple[Tensor, ...]:
        """Queries, keys and values (patches, heads, head_dim)."""
        block = self._block(vision_pass, layer)
        heads = block.attn.qkv(block.norm1(vision_pass.states[layer])).unflatten(-1, (3, block.attn.num_heads, -1))
        return heads.unbind(1)

    def _units(self, vision_pass: VisionPass, item: int, values: Tensor) -> Tensor:
        """Values of one medium in tower layout -> (tokens, patches of a token, dim) in placeholder order."""
        sizes = [prod(grid) // self.unit for grid in self.grids(vision_pass)]
        end = list(accumulate(sizes))[item]
        order = self.unit_order(vision_pass)[end - sizes[item] : end]
        return values.unflatten(0, (-1, self.unit))[order.to(values.device)]

    # Positions: (time, height, width), with the place in the text before them when `generate` prepares them ---------

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder.rotary_emb(hidden, position_ids=positions[-3:])

    def next_position(self, positions: Tensor, valid: Tensor) -> Tensor:
        """As transformers continues: in a plain forward (three axes) past the largest position of all three; in
        `generate` (four axes) past the last token, which after a long video is less: its last frames' times may be
        larger than the positions of the text behind it."""
        if len(positions) < 4:
            return super().next_position(positions, valid).amax(dim=0, keepdim=True).expand(len(positions), -1, -1)
        places = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        last = places.masked_fill(~valid, 0).amax(dim=1, keepdim=True)
        return positions.gather(2, last.expand(len(positions), -1, -1)) + 1

    def continued(
        self,
        ids: Tensor,
        valid: Tensor,
        media: Sequence[tuple[VisionPass, int]],
        start: Tensor,
        arguments: Mapping[str, Any],
    ) -> Tensor:
        text = super().continued(ids, valid, media, start, arguments)
        if not media:
            return text
        kinds, given = torch.zeros_like(ids), {}
        for kind, (modality, token) in enumerate(self.placeholders.items(), start=1):
            kinds[ids == token] = kind  # 1: image, 2: video
            grids = [self.grids(vision_pass)[item] for vision_pass, item in media if vision_pass.modality == modality]
            given[f"{modality}_grid_thw"] = torch.tensor(grids) if grids else None
        seconds = arguments.get("second_per_grid_ts")
        if seconds is not None:
            seconds = [float(seconds[item]) for vision_pass, item in media if vision_pass.modality == "video"]
        places, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, attention_mask=valid.long(), second_per_grid_ts=seconds, **given
        )
        return torch.cat([text[:-3], start[-3:] + places.to(start.device, non_blocking=True)])

    def layer_positions(self, positions: Tensor) -> Tensor | None:
        return positions[0] if len(positions) == 4 else None


def qwen_geometry(config: Any, visual_tokens: int) -> Geometry:
    """Counts of a Qwen-VL family from its configuration.

    Args:
        visual_tokens: of the image that stands for all of them, whose sizes differ.

    Raises:
        UnsupportedError: the decoder attends in a sliding window.
    """
    if getattr(config.text_config, "use_sliding_window", False):
        raise UnsupportedError(
            f"{config.model_type} with use_sliding_window=True is not covered: a window counts tokens, and pruning "
            f"moves them; use a checkpoint with use_sliding_window=False"
        )
    depth = config.vision_config.depth
    text: dict[str, Any] = text_geometry(config.text_config)
    return Geometry(
        visual_tokens=visual_tokens,
        vision_layers=depth,
        feature_layer=depth,
        cls=False,
        multimodal_rotary=True,
        dynamic=True,
        packed_vision=True,
        videos=True,
        **text,
    )
