"""LLaVA-1.5: CLIP vision tower, two-layer projector, Llama decoder, a fixed number of visual tokens per image."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.budget import Geometry


class LlavaAdapter(Adapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower and one feature layer."""

    architectures: ClassVar[tuple[str, ...]] = ("LlavaForConditionalGeneration",)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.geometry_of(model.config)  # refuses what the adapter does not cover

    @property
    def multimodal(self) -> nn.Module:
        return self.model.model

    @property
    def decoder(self) -> nn.Module:
        return self.model.model.language_model

    @property
    def vision_layers(self) -> nn.ModuleList:
        return self.model.model.vision_tower.encoder.layers

    @property
    def vision_tower(self) -> nn.Module:
        return self.model.model.vision_tower

    def project(self, features: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(features)

    def encode(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if (arguments.get("mm_encoder_outputs") or {}).get("image") is not None:
            return arguments
        if arguments.get("pixel_values") is None:
            raise UnsupportedError("the prompt has image placeholders but no pixel_values; pass the processor's output")
        arguments = dict(arguments)
        pixels = arguments.pop("pixel_values")
        for option in ("vision_feature_layer", "vision_feature_select_strategy"):
            asked = arguments.pop(option, None)
            if asked is not None and asked != getattr(self.model.config, option):
                raise UnsupportedError(
                    f"{option}={asked!r} differs from the model's configuration; set it there instead"
                )
        encoded = self.multimodal.get_image_features(pixel_values=pixels, return_dict=True)
        return {**arguments, "mm_encoder_outputs": {**(arguments.get("mm_encoder_outputs") or {}), "image": encoded}}

    @property
    def image_token_id(self) -> int:
        return self.model.config.image_token_id

    @staticmethod
    def geometry_of(config: Any) -> Geometry:
        vision, text, layer = config.vision_config, config.text_config, config.vision_feature_layer
        if vision.model_type != "clip_vision_model" or config.vision_feature_select_strategy != "default":
            raise UnsupportedError(
                f"LLaVA with a {vision.model_type} vision tower and feature selection "
                f"{config.vision_feature_select_strategy!r} is not covered; use a CLIP tower with 'default'"
            )
        if not isinstance(layer, int):
            raise UnsupportedError(f"vision_feature_layer={layer} names several layers; only one is covered")
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return Geometry(
            visual_tokens=(vision.image_size // vision.patch_size) ** 2,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            ffn=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_dim=text.num_key_value_heads * head_dim,
            vision_layers=vision.num_hidden_layers,
            feature_layer=layer if layer >= 0 else vision.num_hidden_layers + 1 + layer,
        )

    def patches(self, hidden: Tensor) -> Tensor:
        return hidden[:, 1:]

    def cls_state(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]

    def vision_queries_keys(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor, float]:
        block: Any = self.vision_layers[layer]
        attention = block.self_attn
        normed = block.layer_norm1(hidden)
        query, key = (
            projection(normed).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj)
        )
        return query, key, attention.scale
