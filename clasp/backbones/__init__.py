"""Model families: loading, counts, and the adapter that names a model's parts for the engine."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clasp.backbones.hub import BackboneUnavailable, hub_commit, unavailable
from clasp.backbones.published import PUBLISHED, SHIPPED, Published
from clasp.backbones.trust import NOTHING, BackboneRefused, Trust, check_trust
from clasp.budget import Geometry

__all__ = [
    "ADAPTERS",
    "PUBLISHED",
    "REFUSED",
    "BackboneRefused",
    "BackboneUnavailable",
    "Trust",
    "adapter_for",
    "adapter_module",
    "check_trust",
    "geometry",
    "load",
    "resolve",
    "unwrapped",
    "video_frames",
]

if TYPE_CHECKING:
    from clasp.backbones.base import Adapter

TINY = "tiny"

TRANSFORMERS = (5, 23)
"""Oldest transformers whose parts the adapters name: images are encoded apart from the prompt's forward."""

ADAPTERS: dict[str, tuple[str, str]] = {
    "LlavaForConditionalGeneration": ("clasp.backbones.llava", "LlavaAdapter"),
    "LlavaNextForConditionalGeneration": ("clasp.backbones.llava_next", "LlavaNextAdapter"),
    "LlavaOnevisionForConditionalGeneration": ("clasp.backbones.llava_onevision", "LlavaOnevisionAdapter"),
    "VideoLlavaForConditionalGeneration": ("clasp.backbones.video_llava", "VideoLlavaAdapter"),
    "Qwen2VLForConditionalGeneration": ("clasp.backbones.qwen2_vl", "Qwen2VLAdapter"),
    "Qwen2_5_VLForConditionalGeneration": ("clasp.backbones.qwen2_5_vl", "Qwen25VLAdapter"),
    "Qwen3VLForConditionalGeneration": ("clasp.backbones.qwen3_vl", "Qwen3VLAdapter"),
    "InternVLForConditionalGeneration": ("clasp.backbones.internvl", "InternVLAdapter"),
    "SmolVLMForConditionalGeneration": ("clasp.backbones.smolvlm", "SmolVLMAdapter"),
}
"""Class name in transformers -> module and class of the adapter that serves it."""

REFUSED: dict[str, str] = {
    "Gemma3ForConditionalGeneration": (
        "its decoder alternates layers of two masks and two rotary bases, and lets the tokens of an image see each "
        "other both ways, while the engine gives all layers behind a stage one causal mask and one rotary base"
    ),
}
"""Class name in transformers -> why no method can prune it rightly."""


def resolve(name: str) -> str:
    """Path or hub id that transformers loads for a backbone name; ``~`` is the home folder."""
    if name != TINY:
        return os.path.expanduser(name)
    from clasp.tiny import directory

    return str(directory())


def geometry(name: str, revision: str | None = None, trust: Trust = NOTHING) -> Geometry:
    """Counts of a backbone, without loading its weights.

    Raises:
        BackboneUnavailable: its configuration cannot be had, or it needs code of its own, which is not allowed.
    """
    if (known := _counted(name)) is not None:
        return known.geometry
    config, architecture = _configuration(name, revision, trust)
    return _adapter_class(architecture).geometry_of(config)


def load(
    name: Any,
    *,
    dtype: str = "auto",
    device: str | None = None,
    attention: str = "sdpa",
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor, padding on the left.

    Args:
        name: ``tiny``, a hub id, a local folder (text or path), or a model that is already in memory (whose processor
            is then loaded from where the model came from).
        dtype: ``auto`` (as stored; float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None: a GPU where there is one.
        attention: ``sdpa``, ``eager`` or ``flash_attention_2``.
        revision: the hub revision, for a pinned run.
        allow_pickle: whether weights may come as a pickle, which can run any code, where there are none in safetensors.
        trust_remote_code: whether the repository may bring code of its own, which is then run.

    Raises:
        BackboneUnavailable: the files are not here and no hub can be reached.
        BackboneRefused: its weights are a pickle, or it brings code, and that is not allowed.
        UnsupportedError: transformers is too old.
    """
    _check_transformers()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    trust = Trust(allow_pickle, trust_remote_code)
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        path = _source(name)
        check_trust(path, revision, trust, weights=False)
        processor = available(
            AutoProcessor.from_pretrained, path, revision=revision, trust_remote_code=trust_remote_code
        )
        return name, _left_padding(processor)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto" and torch.device(device).type == "cpu":
        dtype = "float32"
    path = resolve(name)
    check_trust(path, revision, trust)
    processor = available(AutoProcessor.from_pretrained, path, revision=revision, trust_remote_code=trust_remote_code)
    model = available(
        AutoModelForImageTextToText.from_pretrained,
        path,
        revision=revision,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=None if allow_pickle else True,
        trust_remote_code=trust_remote_code,
    )
    return model.to(device).eval(), _left_padding(processor)


def adapter_for(model: Any) -> Adapter:
    """The adapter of a loaded model's family, also of a subclass's and of one that is wrapped (:func:`unwrapped`).

    Raises:
        UnsupportedError: no adapter knows its class (the message lists those that one knows), or transformers is too
            old.
    """
    inner = unwrapped(model)
    names = [kind.__name__ for kind in type(inner).__mro__]
    served = next((name for name in names if name in ADAPTERS), names[0])
    return _adapter_class(served)(inner)


def unwrapped(model: Any) -> Any:
    """The transformers model inside what PEFT or data-parallel training wrap around it, whose forward they call.

    Raises:
        UnsupportedError: it is copied to several devices at each forward.
    """
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    from clasp.backbones.base import UnsupportedError

    while True:
        if isinstance(model, DataParallel) and len(model.device_ids) > 1:
            raise UnsupportedError(
                f"DataParallel over {len(model.device_ids)} devices runs copies of the model, which cannot be pruned; "
                f"use one process per device, or spread one model with device_map"
            )
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model"):  # PEFT's
            model = model.get_base_model()
        else:
            return model


def adapter_module(name: str, revision: str | None = None, trust: Trust = NOTHING) -> str:
    """Dotted name of the module that adapts a backbone, whose code can change its answers."""
    return ADAPTERS[_architecture(name, revision, trust)][0]


def video_frames(name: str, revision: str | None = None, trust: Trust = NOTHING) -> int | None:
    """Frames that evaluation samples from a video for a backbone; None: it is not evaluated on videos."""
    return _adapter_class(_architecture(name, revision, trust)).frames


def _source(model: Any) -> str:
    """Folder or hub id that a model in memory came from."""
    if source := getattr(unwrapped(model), "name_or_path", ""):
        return str(source)
    raise BackboneUnavailable(
        f"the {type(model).__name__} in memory does not say where it came from (its name_or_path is empty), so that "
        f"its processor cannot be found; load the processor with transformers.AutoProcessor.from_pretrained and pass "
        f"both to the method"
    )


def _architecture(name: str, revision: str | None, trust: Trust) -> str:
    if (known := _counted(name)) is not None:
        return known.architecture
    return _known(_configuration(name, revision, trust)[1])


def _counted(name: str) -> Published | None:
    """What is known of a backbone without its configuration file."""
    return SHIPPED if name == TINY else PUBLISHED.get(name)


def _configuration(name: str, revision: str | None, trust: Trust) -> tuple[Any, str]:
    """A backbone's configuration and the class that it names, once it has been checked for code."""
    from transformers import AutoConfig

    path = resolve(name)
    check_trust(path, revision, trust, weights=False)
    config = available(AutoConfig.from_pretrained, path, revision=revision, trust_remote_code=trust.trust_remote_code)
    if not config.architectures:
        raise BackboneUnavailable(f"backbone {name!r} names no model class in its config.json; save the model again")
    return config, str(config.architectures[0])


def _known(architecture: str) -> str:
    if architecture not in ADAPTERS:
        from clasp.backbones.base import UnsupportedError

        if reason := REFUSED.get(architecture):
            raise UnsupportedError(f"{architecture} cannot be pruned: {reason}; use one of {', '.join(ADAPTERS)}")
        raise UnsupportedError(
            f"no adapter for {architecture}; known: {', '.join(ADAPTERS)}. If it wraps one of these, pass the "
            "model inside it. A new family is one file in clasp/backbones/"
        )
    return architecture


def _adapter_class(architecture: str) -> type[Adapter]:
    _check_transformers()
    module, name = ADAPTERS[_known(architecture)]
    return getattr(importlib.import_module(module), name)


def _check_transformers() -> None:
    installed = _installed_transformers()
    if tuple(map(int, installed.split(".")[:2])) < TRANSFORMERS:
        from clasp.backbones.base import UnsupportedError

        needed = ".".join(map(str, TRANSFORMERS))
        raise UnsupportedError(
            f"transformers {installed} is installed, but the adapters need {needed} or newer; run "
            f"pip install 'transformers>={needed}'"
        )


@lru_cache(maxsize=1)
def _installed_transformers() -> str:
    return importlib.metadata.version("transformers")


def _left_padding(processor: Any) -> Any:
    from clasp.backbones.prompt import with_template
    from clasp.backbones.stacking import refusing_lengths

    processor.tokenizer.padding_side = "left"  # generation continues at the right end of every row
    return refusing_lengths(with_template(processor))


def available(loader: Any, path: str, *, revision: str | None = None, **options: Any) -> Any:
    """Loads from a folder, or from the hub at a fixed commit; quickly unavailable where there is neither."""
    if not os.path.isdir(Path(path).expanduser()):
        options["revision"] = hub_commit(path, revision)
    try:
        return loader(path, **options)
    except OSError as error:
        if os.path.isdir(Path(path).expanduser()):
            raise BackboneUnavailable(_unusable(path, error)) from error
        raise unavailable(path, revision) from error
    except ValueError as error:  # raised by transformers for a configuration that it does not know
        raise BackboneUnavailable(_unusable(path, error)) from error


def _unusable(path: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return f"backbone {path!r} cannot be loaded ({reason}); fetch or save it again, or use backbone=tiny"
