"""Model families: loading, counts, and the adapter that names a model's parts for the engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.backbones.hub import BackboneUnavailable, hub_commit, unavailable
from clasp.budget import Geometry

__all__ = ["PUBLISHED", "BackboneUnavailable", "adapter_for", "geometry", "load", "resolve"]

if TYPE_CHECKING:
    from clasp.backbones.base import Adapter

TINY = "tiny"

PUBLISHED: dict[str, Geometry] = {
    # config.json of the model card on the hub: CLIP ViT-L/14 at 336 px, Vicuna 7B
    "llava-hf/llava-1.5-7b-hf": Geometry(
        visual_tokens=576, layers=32, hidden=4096, ffn=11008, heads=32, kv_dim=4096, vision_layers=24, feature_layer=23
    ),
}
"""Counts of models on the hub, so that a configuration is checked without reaching it."""


def resolve(name: str) -> str:
    """Path or hub id that transformers loads for a backbone name."""
    if name != TINY:
        return name
    from clasp.tiny import directory

    return str(directory())


def geometry(name: str) -> Geometry:
    """Counts of a backbone, without loading its weights.

    Raises:
        BackboneUnavailable: its configuration cannot be had.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    from transformers import AutoConfig

    config = _available(AutoConfig.from_pretrained, resolve(name))
    return _adapter_class(config.architectures[0]).geometry_of(config)


def load(
    name: Any, *, dtype: str = "auto", device: str | None = None, attention: str = "sdpa", revision: str | None = None
) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor, padding on the left.

    Args:
        name: ``tiny``, a hub id, a local path, or a model that is already in memory (whose processor is then loaded).
        dtype: ``auto`` (as stored; float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None: a GPU where there is one.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        revision: the hub revision, for a pinned run.

    Raises:
        BackboneUnavailable: the files are not here and no hub can be reached.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not isinstance(name, str):
        return name, _left_padding(_available(AutoProcessor.from_pretrained, name.name_or_path))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto" and torch.device(device).type == "cpu":
        dtype = "float32"
    path = resolve(name)
    processor = _available(AutoProcessor.from_pretrained, path, revision=revision)
    model = _available(
        AutoModelForImageTextToText.from_pretrained,
        path,
        revision=revision,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
    )
    return model.to(device).eval(), _left_padding(processor)


def adapter_for(model: Any) -> Adapter:
    """The adapter of a loaded model's family.

    Raises:
        UnsupportedError: no adapter knows its class; the message lists those that one knows.
    """
    return _adapter_class(type(model).__name__)(model)


def _adapter_class(architecture: str) -> type[Adapter]:
    from clasp.backbones.base import UnsupportedError
    from clasp.backbones.llava import LlavaAdapter

    adapters: list[type[Adapter]] = [LlavaAdapter]
    known = {name: adapter for adapter in adapters for name in adapter.architectures}
    if architecture not in known:
        raise UnsupportedError(
            f"no adapter for {architecture}; known: {', '.join(known)}. A new family is one file in clasp/backbones/"
        )
    return known[architecture]


def _left_padding(processor: Any) -> Any:
    processor.tokenizer.padding_side = "left"  # generation continues at the right end of every row
    return processor


def _available(loader: Any, path: str, *, revision: str | None = None, **options: Any) -> Any:
    """Loads from a folder, or from the hub at a fixed commit; quickly unavailable where there is neither."""
    if not Path(path).expanduser().is_dir():
        options["revision"] = hub_commit(path, revision)
    try:
        return loader(path, **options)
    except OSError as error:
        raise unavailable(path) from error
