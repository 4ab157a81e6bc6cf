"""One call of a family's encoder, recorded as the engine's hooks record it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from clasp.backbones.base import Adapter, Modality, VisionPass


def encode(adapter: Adapter, modality: Modality, arguments: dict[str, Any], ids: Tensor | None = None) -> VisionPass:
    """Encodes what ``arguments`` hold; the pass has every hidden state of the ViT.

    Args:
        ids: (batch, length) the prompts, padding -1; None: placeholders alone, as many as the encoder made tokens.
    """
    vision_pass, layers = VisionPass(modality, arguments), adapter.vision_layers(modality)

    def before(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            vision_pass.states[index] = args[0] if args else kwargs["hidden_states"]
            vision_pass.inputs = kwargs

        return hook

    def behind(module: nn.Module, args: Any, output: Any) -> None:
        vision_pass.states[len(layers)] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as hooks, torch.no_grad():
        for index, layer in enumerate(layers):
            hooks.enter_context(layer.register_forward_pre_hook(before(index), with_kwargs=True))
        hooks.enter_context(layers[-1].register_forward_hook(behind))
        vision_pass.output = getattr(adapter.multimodal, adapter.encoders[modality].function)(
            **arguments, return_dict=True
        )
    if ids is None:
        ids = torch.tensor([[adapter.placeholders[modality]] * len(features_of(vision_pass))])
    adapter.read(vision_pass, ids)
    return vision_pass


def features_of(vision_pass: VisionPass) -> Tensor:
    """(tokens of all media, hidden) what the encoder returned."""
    return torch.cat([part.flatten(0, -2) for part in vision_pass.output.pooler_output])
