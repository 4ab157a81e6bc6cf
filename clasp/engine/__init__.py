"""The engine: a context manager that prunes a loaded model's visual tokens and leaves nothing behind.

Tokens are really dropped: a pre-hook on the decoder layer at a stage shortens its hidden states, and every later
layer gets the matching mask and rotary embeddings, so that its compute, its KV cache and decoding are smaller. All of
it is forward hooks; no method is replaced and no attribute set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn

from clasp.backbones import adapter_for
from clasp.backbones.base import UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.engine.decoding import DecodingStep
from clasp.engine.layout import Layout
from clasp.engine.prefill import Prefill, Trace
from clasp.engine.vision import VisionPass
from clasp.methods.base import Method

_ACTIVE: WeakSet[nn.Module] = WeakSet()


class Run:
    """A method at work on a model.

    Args:
        method: what is kept where.
        model: a loaded transformers model of a known family, eager, sdpa or flash attention, not compiled.
        processor: its processor, whose tokenizer and chat template tell instruction from template.

    Attributes:
        trace: what the latest prefill kept, :class:`~clasp.engine.prefill.Trace`; None before the first.
        oracle: true categories of the next prefill's prompts; used instead of the router, once.

    Raises:
        UnsupportedError: a compiled model, an unknown family.
        BudgetError: the budget cannot be met on this backbone.
    """

    def __init__(self, method: Method, model: Any, processor: Any) -> None:
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            raise UnsupportedError(
                "a compiled model cannot be pruned: its graph has fixed shapes; pass the model itself"
            )
        self.method = method
        self.adapter = adapter_for(model)
        self.schedule = method.check(self.adapter.geometry)
        self.trace: Trace | None = None
        self.oracle: Sequence[str] | None = None
        self._model = model
        self._reader = PromptReader(processor, self.adapter.image_token_id)
        self._cuts = {stage.cut: stage for stage in self.schedule.stages}
        self._handles: list[Any] = []
        self._prefill: Prefill | None = None
        self._step: DecodingStep | None = None
        self._seen: VisionPass | None = None
        self._pruned: WeakKeyDictionary[Any, list[Layout]] = WeakKeyDictionary()

    def __enter__(self) -> Run:
        if self._model in _ACTIVE:
            raise UnsupportedError("this model is already being pruned; leave that context before entering another")
        _ACTIVE.add(self._model)
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pruned.clear()
        self._prefill = self._step = self._seen = None
        _ACTIVE.discard(self._model)

    def _install(self) -> None:
        adapter, keep = self.adapter, self._handles.append
        keep(adapter.multimodal.register_forward_pre_hook(self._begin, with_kwargs=True))
        keep(adapter.multimodal.register_forward_hook(self._end, always_call=True))
        keep(adapter.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True))
        keep(adapter.decoder.register_forward_hook(self._after_decoder))
        keep(adapter.vision_tower.register_forward_pre_hook(self._before_vision, with_kwargs=True))
        keep(adapter.vision_tower.register_forward_hook(self._after_vision))
        for index in self.method.vision_states(adapter.geometry.feature_layer):
            if index < len(adapter.vision_layers):
                hook = _Indexed(self._before_vision_layer, index)
                keep(adapter.vision_layers[index].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                keep(adapter.vision_layers[-1].register_forward_hook(self._after_vision_layers))
        if self._cuts:
            first = max(0, min(self._cuts) - self.method.lookback)
            for index in range(first, len(adapter.layers)):
                keep(
                    adapter.layers[index].register_forward_pre_hook(
                        _Indexed(self._before_layer, index), with_kwargs=True
                    )
                )

    # One forward of the multimodal model -------------------------------------------------------------------------

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._prefill = self._step = None
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise UnsupportedError(
                f"{type(cache).__name__} has a fixed length and cannot be pruned; use cache_implementation='dynamic'"
            )
        if cache is not None and cache.get_seq_length() > 0:
            self._continue(ids, cache, kwargs)
        elif ids is None:
            raise UnsupportedError("pruning finds visual tokens by input_ids; pass input_ids, not inputs_embeds")
        elif bool((ids == self.adapter.image_token_id).any()):
            return args, self._start(ids, kwargs)
        return None

    def _start(self, ids: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Begins a prefill; returns the arguments with images encoded and features replaced where the method fuses."""
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise UnsupportedError(
                f"a {mask.ndim}-dimensional attention mask cannot be pruned; pass the 2D padding mask"
            )
        kwargs = self.adapter.encode(kwargs)
        encoded = kwargs["mm_encoder_outputs"]["image"]
        if self._seen is None or encoded.last_hidden_state is not self._seen.output:
            raise UnsupportedError("the images were encoded outside of this context; pass pixel_values, not features")
        oracle, self.oracle = self.oracle, None
        prefill = Prefill(self.method, self.adapter, self._reader, self.schedule, ids, mask, self._seen, oracle)
        features = prefill.features()
        self._prefill = prefill
        if features is None:
            return kwargs
        encoded = copy.copy(encoded)
        encoded.pooler_output = features
        return {**kwargs, "mm_encoder_outputs": {**kwargs["mm_encoder_outputs"], "image": encoded}}

    def _continue(self, ids: Tensor | None, cache: Any, kwargs: dict[str, Any]) -> None:
        layouts = self._pruned.get(cache)
        length = None if ids is None else ids.shape[1]
        if layouts is None:
            # a generated placeholder is only text; an image comes with its pixels or features
            encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
            if kwargs.get("pixel_values") is not None or encoded is not None:
                raise UnsupportedError("an image after cached tokens cannot be pruned; prefill the prompt as a whole")
            return
        if length != 1:
            raise UnsupportedError(
                f"{length} tokens at once on a pruned cache (assisted decoding, chunked prefill or a further turn) are "
                f"not supported; decode token by token, or prefill the whole conversation anew"
            )
        assert ids is not None
        if len(ids) != len(layouts[0].index):
            raise UnsupportedError(
                f"the batch changed from {len(layouts[0].index)} to {len(ids)} rows on a pruned cache"
            )
        self._step = DecodingStep(self.adapter, layouts, cache)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._prefill = self._step = None

    # Vision tower: inside the forward, or before it where `generate` encodes images first -----------------------------

    def _before_vision(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen = VisionPass(args[0] if args else kwargs["pixel_values"])

    def _before_vision_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert self._seen is not None
        self._seen.states[index] = args[0] if args else kwargs["hidden_states"]

    def _after_vision_layers(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self._seen is not None
        self._seen.states[len(self.adapter.vision_layers)] = output[0] if isinstance(output, tuple) else output

    def _after_vision(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert self._seen is not None
        self._seen.output = output.last_hidden_state

    # Decoder -------------------------------------------------------------------------------------------------------

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if self._step is None else (args, self._step.decoder_arguments(kwargs))

    def _after_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        prefill = self._prefill
        if prefill is None:
            return None
        cache = getattr(output, "past_key_values", None)
        if len(prefill.layouts) > 1:
            output.last_hidden_state = prefill.scatter(output.last_hidden_state)
            if cache is not None:
                self._pruned[cache] = prefill.layouts
        self.trace = prefill.trace(_cache_bytes(cache))
        return output

    def _before_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Arguments for decoder layer ``index``; None leaves them as they are."""
        if self._step is not None:
            return args, self._step.layer_arguments(index, args[0], kwargs)
        prefill = self._prefill
        if prefill is None:
            return None
        hidden = args[0]
        if not prefill.layouts:
            prefill.start(index, hidden, kwargs)
        if index in self._cuts:
            hidden = prefill.prune(self._cuts[index], hidden, kwargs.get("past_key_values"))
            prefill.look = None
        elif self.method.lookback and index + 1 in self._cuts:
            prefill.look = (hidden, prefill.layouts[-1].rotary)
        if len(prefill.layouts) == 1:
            return None
        layout = prefill.layouts[-1]
        return (hidden, *args[1:]), {**kwargs, **_layer_kwargs(layout, layout.mask)}


class _Indexed:
    """A forward pre-hook that tells its callee which layer it sits on."""

    def __init__(self, callee: Callable[[int, tuple[Any, ...], dict[str, Any]], Any], index: int) -> None:
        self._callee, self._index = callee, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._callee(self._index, args, kwargs)


def _layer_kwargs(layout: Layout, mask: Any) -> dict[str, Any]:
    return {"attention_mask": mask, "position_ids": layout.position_ids, "position_embeddings": layout.rotary}


def _cache_bytes(cache: Any) -> int:
    """Bytes of keys and values in a cache; 0 without one."""
    if cache is None:
        return 0
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in tensors)
