"""Watching the vision tower: what the engine hooks while a model's image and video encoders run."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clasp.backbones.base import Adapter, Modality, UnsupportedError, VisionPass
from clasp.backbones.crops import CropAdapter
from clasp.engine.hooks import Hook, Indexed, Wrapped
from clasp.engine.merging import VisionMerger
from clasp.methods.protocols import PruningMethod


class EncoderWatch:
    """Keeps the ViT states that a method reads, and merges patches in its `merge_layers`.

    ``generate`` calls a model's encoders before any forward, and passes on neither pixels nor what says which crops
    make an image; so the encoders themselves are wrapped.

    Args:
        lock: held while an encoder runs, since the hooks inside it know one call at a time.

    Raises:
        UnsupportedError: the method merges inside a tower that runs flash attention.
    """

    def __init__(self, method: PruningMethod, adapter: Adapter, lock: threading.RLock) -> None:
        self._method, self._adapter, self._lock = method, adapter, lock
        self._own = threading.local()
        self._encoding: VisionPass | None = None
        self._merger: VisionMerger | None = None
        self._handles: list[Any] = []
        self._wrapped: list[str] = []
        if method.merge_layers(adapter.geometry.feature_layer):
            self._refuse_flash()

    @property
    def passes(self) -> dict[Modality, VisionPass]:
        """The latest call of each modality's encoder in this thread: between a prompt's encoding and its prefill
        another thread may encode its own."""
        if not hasattr(self._own, "passes"):
            self._own.passes = {}
        return self._own.passes

    def install(self) -> None:
        """Wraps the encoders and hooks the towers."""
        adapter = self._adapter
        for modality, encoder in adapter.encoders.items():
            wrapped = Wrapped(adapter.multimodal, encoder.function, self._encoder(modality, encoder.function))
            setattr(adapter.multimodal, encoder.function, wrapped)
            self._wrapped.append(encoder.function)
        for modality in {id(adapter.tower(modality)): modality for modality in adapter.encoders}.values():
            self._hook(modality)  # one tower may serve both

    def remove(self) -> None:
        """Leaves nothing behind."""
        for handle in self._handles:
            handle.remove()
        for name in self._wrapped:
            delattr(self._adapter.multimodal, name)
        self._handles.clear()
        self._wrapped.clear()
        self._own = threading.local()
        self._encoding = self._merger = None

    def _refuse_flash(self) -> None:
        for modality in self._adapter.encoders:
            tower: Any = self._adapter.tower(modality)
            if "flash" in str(tower.config._attn_implementation):
                raise UnsupportedError(
                    f"method {self._method.name!r} merges inside the vision tower and weighs merged patches by an "
                    f"attention bias, which flash attention does not take; load the model with attention='sdpa'"
                )

    def _hook(self, modality: Modality) -> None:
        adapter, keep = self._adapter, self._handles.append
        layers, feature_layer = adapter.vision_layers(modality), adapter.geometry.feature_layer
        merges = self._method.merge_layers(feature_layer)
        for index in range(len(layers) + 1) if merges else self._method.vision_states(feature_layer):
            if index < len(layers):
                hook = Indexed(self._before_layer, index)
                keep(layers[index].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                keep(layers[-1].register_forward_hook(Hook(self._after_layers)))
        for index in merges:
            keep(layers[index].register_forward_hook(Indexed(self._merge_after, index)))
        if merges:
            keep(adapter.tower(modality).register_forward_hook(Hook(self._after_tower)))

    def _encoder(self, modality: Modality, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(self._adapter.multimodal, name))

        def encode(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if self._encoding is not None:  # a video encoder that is built on the image encoder
                    return original(*args, **kwargs)
                return watched(original, *args, **kwargs)

        def watched(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._encoding = VisionPass(modality, _known(signature.bind(*args, **kwargs).arguments))
            self._merger = self._new_merger(modality)
            try:
                output = original(*args, **kwargs)
                self._encoding.output = copy.copy(output)  # beam search repeats the features in place
                self.passes[modality] = self._encoding
            finally:
                self._encoding = self._merger = None
            return output

        return encode

    def _new_merger(self, modality: Modality) -> VisionMerger | None:
        adapter = self._adapter
        if not self._method.merge_layers(adapter.geometry.feature_layer):
            return None
        assert isinstance(adapter, CropAdapter), "Method.check refuses towers that pack their patches"
        share = self._method.target(adapter.geometry.visual_tokens) / adapter.geometry.visual_tokens
        return VisionMerger(self._method, adapter, modality, max(1, round(adapter.patches * share)))

    def _before_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        vision_pass = self._encoding
        if vision_pass is None:  # a tower that its user calls alone
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        self._keep(index, hidden)
        vision_pass.inputs = kwargs
        bias = None if self._merger is None else self._merger.before(index, hidden)
        return None if bias is None else ((hidden,), {**kwargs, "attention_mask": bias})

    def _merge_after(self, index: int, args: tuple[Any, ...], output: Any) -> Any:
        return None if self._merger is None else self._merger.after(index, output)

    def _after_layers(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._encoding is not None:
            layers = self._adapter.vision_layers(self._encoding.modality)
            self._keep(len(layers), output[0] if isinstance(output, tuple) else output)

    def _keep(self, index: int, hidden: Tensor) -> None:
        assert self._encoding is not None
        feature_layer = self._adapter.geometry.feature_layer
        wanted = {*self._method.vision_states(feature_layer), *((feature_layer,) if self._merger else ())}
        if index in wanted:
            self._encoding.states[index] = hidden if self._merger is None else self._merger.unmerged(hidden)

    def _after_tower(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Puts the unmerged state where the backbone reads its features, at full length."""
        if self._encoding is None or self._merger is None:
            return None
        self._encoding.merged = self._merger.slot
        layer = self._adapter.model.config.vision_feature_layer
        output.hidden_states = {layer: self._encoding.states[self._adapter.geometry.feature_layer]}
        return output


def _known(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments with sizes, grids and counts on the CPU: read now, so that no stage waits for them."""
    return {
        name: torch.tensor(value.tolist()) if isinstance(value, Tensor) and not value.is_floating_point() else value
        for name, value in arguments.items()
    }
