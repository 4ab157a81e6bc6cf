"""What the engine needs to know of a model family.

One adapter per family; nothing else knows transformers' internals. Terms: a *medium* is one image or video of a
prefill; a *crop* is what the ViT sees at once (an any-resolution tile, a video frame, or the whole image); the *tower
layout* is whatever leading shape a ViT's hidden states have on that family.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from clasp.budget import Geometry

Projection = Literal["q", "k", "v"]
Modality = Literal["image", "video"]


class UnsupportedError(ValueError):
    """A model, cache or call that the engine cannot prune correctly; the message names it and the remedy."""


class Encoder(NamedTuple):
    """How a family encodes one modality: a method of the multimodal module, and its argument that holds the pixels."""

    function: str
    pixels: str


@dataclass
class VisionPass:
    """One call of a family's encoder, and what the engine's hooks caught inside the ViT.

    Attributes:
        arguments: of the call, by name; sizes, grids and counts lie on the CPU.
        states: ViT hidden states in tower layout by index, those that the method reads.
        inputs: keyword arguments of the ViT's first layer (rotary embeddings, sequence bounds).
        output: what the call returned, its ``pooler_output`` being one feature matrix per medium.
        merged: (crops, patches) long, the patch that each was merged into inside the ViT; None where none was.
        memo: values derived from the states, computed once.
    """

    modality: Modality
    arguments: dict[str, Any]
    states: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    merged: Tensor | None = None
    memo: dict[Any, Any] = field(default_factory=dict)


class Adapter(ABC):
    """Names the parts of a loaded model.

    Args:
        model: a transformers multimodal model for conditional generation.

    Raises:
        UnsupportedError: the configuration has something that the adapter does not cover.
    """

    architectures: ClassVar[tuple[str, ...]]
    """Class names in transformers that this adapter serves."""
    encoders: ClassVar[Mapping[Modality, Encoder]] = {"image": Encoder("get_image_features", "pixel_values")}
    """What the family takes, and how it encodes it."""
    frames: ClassVar[int | None] = None
    """Frames that evaluation samples from a video; None: the family is not evaluated on videos."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.geometry = self.geometry_of(model.config)

    @property
    def text_tower(self) -> str | None:
        """Folder of the CLIP model that the backbone brings, whose vision tower is its own."""
        from clasp.backbones.hub import own_text_tower  # here, so that its code is in no method's fingerprint

        return own_text_tower(self.model.name_or_path) if self.geometry.text_tower else None

    @staticmethod
    @abstractmethod
    def geometry_of(config: Any) -> Geometry:
        """Counts from a configuration alone, no weights.

        Raises:
            UnsupportedError: the adapter does not cover this configuration.
        """

    # Modules ------------------------------------------------------------------------------------------------------

    @property
    def multimodal(self) -> nn.Module:
        """The module whose forward receives ``input_ids`` and pixels and merges them."""
        return self.model.model

    @property
    def decoder(self) -> Any:
        """The decoder without its head: embeddings in, last hidden state out."""
        return self.model.model.language_model

    @abstractmethod
    def tower(self, modality: Modality) -> nn.Module:
        """The ViT of a modality; one module may serve both."""

    @abstractmethod
    def vision_layers(self, modality: Modality) -> nn.ModuleList:
        """The ViT's layers, each taking and returning hidden states in tower layout."""

    @property
    def placeholders(self) -> dict[Modality, int]:
        """Token ids that stand for one visual token each."""
        config = self.model.config
        return {modality: getattr(config, f"{modality}_token_id") for modality in self.encoders}

    # Encoding -----------------------------------------------------------------------------------------------------

    def encode(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The multimodal forward's arguments with pixels encoded: replaced by ``mm_encoder_outputs``, as `generate`
        itself does before prefill.

        Raises:
            UnsupportedError: it asks for other vision features than the configured ones.
        """
        arguments = dict(arguments)
        encoded = dict(arguments.get("mm_encoder_outputs") or {})
        for option in ("vision_feature_layer", "vision_feature_select_strategy"):
            asked = arguments.pop(option, None)
            if asked is not None and asked != getattr(self.model.config, option):
                raise UnsupportedError(
                    f"{option}={asked!r} differs from the model's configuration; set it there instead"
                )
        for modality, encoder in self.encoders.items():
            if arguments.get(encoder.pixels) is None:
                continue
            function = getattr(self.multimodal, encoder.function)
            known = inspect.signature(function).parameters
            taken = {name: value for name, value in arguments.items() if name in known and value is not None}
            encoded[modality] = function(**taken, return_dict=True)
        for encoder in self.encoders.values():
            arguments.pop(encoder.pixels, None)
        return {**arguments, "mm_encoder_outputs": encoded}

    def read(self, vision_pass: VisionPass, ids: Tensor) -> None:
        """Stores in a pass what only the prompts say of it: which crops make an image. Called before any other method.

        Args:
            ids: (batch, length) input ids on the CPU, padding -1; where beams repeat prompts, their copies follow each
                other.

        Raises:
            UnsupportedError: the placeholders are not those that the family's processor writes.
        """
        return

    def counts(self, vision_pass: VisionPass) -> list[int]:
        """Visual tokens of each medium of a pass, in order."""
        return [len(features) for features in vision_pass.output.pooler_output]

    def part(self, vision_pass: VisionPass, items: Sequence[int]) -> Any:
        """What the call returned, with the features of some of its media alone, in this order."""
        output = copy.copy(vision_pass.output)
        output.pooler_output = chosen(vision_pass.output.pooler_output, items)
        return output

    def pixels(self, vision_pass: VisionPass, item: int) -> Tensor:
        """The preprocessed pixels of one medium, any shape, without what a batch pads them with."""
        return vision_pass.arguments[self.encoders[vision_pass.modality].pixels][item]

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """(rows, tokens, vision_dim) -> (rows, tokens, hidden) through the backbone's own projector."""

    @abstractmethod
    def reassemble(self, vision_pass: VisionPass, item: int, blocks: Tensor) -> Tensor:
        """The features that the decoder gets for one medium when its ViT features are these.

        Args:
            blocks: (crops, patches, dim) as :meth:`blocks` gives them.

        Returns:
            (tokens, hidden), projected.
        """

    # Inside the vision tower --------------------------------------------------------------------------------------

    @abstractmethod
    def blocks(self, vision_pass: VisionPass, item: int, values: Tensor) -> Tensor:
        """Values of one medium in tower layout -> (crops, patches, dim), without CLS."""

    @abstractmethod
    def arrange(self, vision_pass: VisionPass, item: int, values: Tensor, joined: bool = False) -> Tensor:
        """Values of one medium in tower layout -> (tokens, dim), one row per visual token in placeholder order.

        Args:
            joined: where several patches make one visual token, concatenates them instead of taking their mean.
        """

    @abstractmethod
    def crops(self, vision_pass: VisionPass, item: int) -> Tensor:
        """(tokens,) long: the crop that each visual token of a medium comes from; -1 for those from none (newlines)."""

    def crop_total(self, vision_pass: VisionPass, item: int) -> int:
        """How many crops a medium has, also such of which no token is left."""
        return int(self.crops(vision_pass, item).max()) + 1

    def whole_first(self, vision_pass: VisionPass, item: int) -> bool:
        """Whether the medium's first crop shows all of it and the others tile it."""
        return False

    def covering(self, vision_pass: VisionPass, item: int) -> Tensor:
        """(tokens of the first crop,) long: which further crop shows the same place; only with ``whole_first``."""
        raise UnsupportedError(f"{type(self).__name__} has no crops that tile an image")

    @abstractmethod
    def vision_keys(self, vision_pass: VisionPass, layer: int) -> Tensor:
        """Keys of ViT layer ``layer``, mean over heads, in tower layout with head_dim last."""

    @abstractmethod
    def vision_attention(self, vision_pass: VisionPass, layer: int) -> Tensor:
        """Attention of CLS, or received from the crop where there is no CLS, in tower layout with 1 last, float32."""

    @abstractmethod
    def vision_received(self, vision_pass: VisionPass, layer: int, others: bool = False) -> Tensor:
        """Attention that each token of the tower receives from its crop, mean over heads, in tower layout with 1 last,
        float32.

        Args:
            others: leaves out the attention of CLS and of the token itself; the mean is still over all queries.
        """

    @abstractmethod
    def vision_attention_heads(self, vision_pass: VisionPass, layer: int) -> Tensor:
        """As :meth:`vision_attention`, in tower layout with heads last."""

    @abstractmethod
    def vision_heads(self, vision_pass: VisionPass, layer: int, kind: Projection) -> Tensor:
        """Queries, keys or values of ViT layer ``layer`` before rotary embedding, in tower layout with heads *
        head_dim last."""

    @property
    @abstractmethod
    def vision_head_count(self) -> int:
        """Heads of a ViT layer."""

    @abstractmethod
    def grid(self, vision_pass: VisionPass, item: int) -> list[Tensor]:
        """Where a medium's visual tokens lie, on the CPU: of each of its frames the places (rows, columns) long among
        the medium's tokens. A cut image has two frames, the whole of it and its tiles beside each other. Tokens that
        are in none of them (newline, CLS) lie in no row and no column."""

    def cls_states(self, vision_pass: VisionPass, item: int, state: Tensor) -> Tensor:
        """(crops, vision_dim) CLS tokens of one medium's crops."""
        raise UnsupportedError(f"the vision tower of {self.architectures[0]} has no CLS token")

    def cls_features(self, vision_pass: VisionPass, item: int, state: Tensor) -> Tensor:
        """(crops, dim) CLS tokens of one medium's crops in the form that :meth:`project` takes."""
        return self.cls_states(vision_pass, item, state)

    # Positions ----------------------------------------------------------------------------------------------------
    # Inside the engine positions are (axes, batch, length): one axis, or one each for time, height and width.

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary cosines and sines (batch, length, head_dim) at the given positions."""
        return self.decoder.rotary_emb(hidden, position_ids=positions[0])

    def next_position(self, positions: Tensor, valid: Tensor) -> Tensor:
        """(axes, batch, 1) position of the token after the prompt, from its positions (axes, batch, length)."""
        return positions.masked_fill(~valid, -1).amax(dim=-1, keepdim=True) + 1

    def continued(
        self,
        ids: Tensor,
        valid: Tensor,
        media: Sequence[tuple[VisionPass, int]],
        start: Tensor,
        arguments: Mapping[str, Any],
    ) -> Tensor:
        """(axes, batch, length) positions of tokens that follow on what a cache holds, as the whole prompt has them.

        Args:
            ids, valid: (batch, length) on the CPU.
            media: that their placeholders stand for, in order.
            start: (axes, batch, 1) position of the token that follows on the cache.
            arguments: of the multimodal forward.
        """
        before = valid.long().cumsum(dim=1) - valid.long()
        return start + before.to(start.device, non_blocking=True)

    def layer_positions(self, positions: Tensor) -> Tensor | None:
        """What a decoder layer gets as ``position_ids``."""
        return positions[0]

    # Decoders of the Llama shape: attributes below hold for Llama, Mistral and Qwen2; a family that differs overrides.

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return self.decoder.layers

    def final_norm(self, hidden: Tensor) -> Tensor:
        """Hidden states through the norm before the head."""
        return self.decoder.norm(hidden)

    def additions(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
        """Takes out of the decoder's arguments what the decoder itself would add to the hidden states between layers.

        Returns:
            The arguments without it, and (batch, length, hidden) to add to the output of layers 0, 1, ...
        """
        return arguments, []

    def heads(
        self, layer: int, kind: Projection, hidden: Tensor, rotary: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Queries, keys or values of decoder layer ``layer``.

        Args:
            hidden: (batch, tokens, hidden) input of that layer at some tokens.
            rotary: cosines and sines at their positions, (batch, tokens, head_dim) each; None leaves them unrotated.

        Returns:
            (batch, heads, tokens, head_dim), of keys and values kv_heads.
        """
        block: Any = self.layers[layer]
        heads = self._heads(block.self_attn, kind, block.input_layernorm(hidden))
        if rotary is None:
            return heads
        # the function turns two tensors by the same angles; the other one has no heads
        return apply_rotary_pos_emb(heads, heads[:, :0], *rotary)[0]

    def scaling(self, layer: int) -> float:
        """Factor on the logits of decoder layer ``layer``'s attention."""
        block: Any = self.layers[layer]
        return block.self_attn.scaling

    def _heads(self, attention: Any, kind: Projection, normed: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> (batch, heads, tokens, head_dim) before rotary embedding."""
        projection = getattr(attention, f"{kind}_proj")
        return projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def text_geometry(text: Any) -> dict[str, Any]:
    """The decoder's part of a :class:`Geometry` from a text configuration."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return {
        "layers": text.num_hidden_layers,
        "hidden": text.hidden_size,
        "ffn": text.intermediate_size,
        "heads": text.num_attention_heads,
        "kv_dim": text.num_key_value_heads * head_dim,
    }


def rasters(count: int, rows: int, columns: int, before: int = 0) -> list[Tensor]:
    """(rows, columns) long places of each of ``count`` equal grids, each after the one before it and ``before`` tokens
    more."""
    size = before + rows * columns
    grid = torch.arange(rows * columns).view(rows, columns)
    return [number * size + before + grid for number in range(count)]


def chosen(features: Any, items: Sequence[int]) -> Any:
    """Some media's features, of a list or a tensor with media first."""
    return features[list(items)] if isinstance(features, Tensor) else [features[item] for item in items]


def split(values: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Consecutive slices of the first dimension."""
    return torch.split(values, list(sizes))
