"""The engine: a context manager that prunes a loaded model's visual tokens and leaves nothing behind.

Tokens are really dropped: a pre-hook on the decoder layer at a stage shortens its hidden states, and every later
layer gets the matching mask and rotary embeddings, so that its compute, its KV cache and decoding are smaller. All of
it is forward hooks, and a wrapper around the model's image and video encoders, which `generate` calls before any
forward.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.budget import BudgetError, Schedule
from clasp.engine import assisting
from clasp.engine.cache import cache_bytes, held_lengths, mark, mark_of
from clasp.engine.decoding import BROKEN, Continuation, counts_anew
from clasp.engine.encoding import EncoderWatch
from clasp.engine.hooks import Hook, Indexed
from clasp.engine.past import Past
from clasp.engine.prefill import Prefill
from clasp.engine.trace import Trace
from clasp.engine.turns import fits, fresh_mask, unknown_past
from clasp.methods.protocols import PruningMethod

_ACTIVE: WeakSet[nn.Module] = WeakSet()


class Run:
    """A method at work on a model.

    Args:
        method: the pruning method.
        model: a loaded transformers model of a known family, eager, sdpa or flash attention, not compiled.
        processor: its processor, whose tokenizer and chat template separate the instruction from the template.

    Attributes:
        trace: what the latest prefill kept, :class:`~clasp.engine.trace.Trace`; None before the first, and after one
            without an image.
        oracle: true categories of the next prefill's prompts; used instead of the router, once.
        fallbacks: what replaces something that this backbone lacks.

    Raises:
        UnsupportedError: a compiled model, an unknown family.
        BudgetError: the budget cannot be met on this backbone.
    """

    def __init__(self, method: PruningMethod, model: Any, processor: Any) -> None:
        _refuse_compiled(model)
        if getattr(processor, "tokenizer", None) is None and not hasattr(processor, "convert_ids_to_tokens"):
            raise UnsupportedError(
                f"processor={type(processor).__name__} has no tokenizer, which separates the instruction "
                f"from the template; pass the backbone's own (from transformers.AutoProcessor or clasp.load)"
            )
        # not at module level: what other backbones are and count is not code that this one's answers pass through
        from clasp.backbones import adapter_for

        self.method = method
        self.adapter = adapter_for(model)
        _refuse_compiled(self.adapter.model)
        if method.weighs():
            _refuse_unweighable(method, self.adapter)
        self.schedule = method.check(self.adapter.geometry)
        self.fallbacks = method.fallbacks(self.adapter.geometry)
        self.trace: Trace | None = None
        self.oracle: Sequence[str] | None = None
        self._model = self.adapter.model  # without what wraps it
        self._reader = PromptReader(processor, self.adapter.placeholders.values())
        self._cuts = {stage.cut: number for number, stage in enumerate(self.schedule.stages)}
        self._read = frozenset(method.decoder_states([*self._cuts]))
        self._schedule_for = functools.cache(self._fitting)
        self._lock = threading.RLock()
        self._turn = threading.local()
        self._watch = EncoderWatch(method, self.adapter, self._lock)
        self._handles: list[Any] = []
        self._prefill: Prefill | None = None
        self._step: Continuation | None = None

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
        self._watch.remove()
        self._restore_assisting()
        self._handles.clear()
        self._prefill = self._step = None
        _ACTIVE.discard(self._model)

    def grids(self) -> list[list[Tensor]]:
        """Where the visual tokens of each image of this thread's latest prefill lie.

        Returns:
            Of each image its frames (crops, or the whole and the tiles beside each other): places (rows, columns) long
            among the image's tokens.
        """
        if (vision_pass := self._watch.passes.get("image")) is None:
            return []
        return [self.adapter.grid(vision_pass, item) for item in range(len(self.adapter.counts(vision_pass)))]

    def _fitting(self, visual_tokens: int) -> Schedule:
        """The schedule of an image with this many visual tokens; one smaller than the budget stays whole.

        Raises:
            BudgetError: the count asked for cannot be met with that many.
        """
        if visual_tokens == self.schedule.visual_tokens:
            return self.schedule
        tokens = self.method.tokens
        if self.method.resizes:
            if tokens is not None and visual_tokens > tokens:
                raise BudgetError(
                    f"method {self.method.name!r} with tokens={tokens} was given {visual_tokens} visual tokens; scale "
                    f"the image down before the processor, as clasp-eval does, and leave out videos"
                )
            return Schedule(visual_tokens, self.schedule.layers, nominal=visual_tokens)
        if tokens is not None and tokens >= visual_tokens:
            stages = tuple(replace(stage, keep=visual_tokens) for stage in self.schedule.stages)
            return Schedule(visual_tokens, self.schedule.layers, stages, nominal=visual_tokens)
        try:
            schedule = self.method.schedule(visual_tokens, self.schedule.layers)
        except BudgetError:
            if tokens is not None:
                raise
            # a share that the backbone can meet, of an image so small that rounding removes the last token
            stages = tuple(replace(stage, keep=1) for stage in self.schedule.stages)
            schedule = Schedule(visual_tokens, self.schedule.layers, stages, nominal=1)
        assert [s.cut for s in schedule.stages] == [s.cut for s in self.schedule.stages]
        return schedule

    def _install(self) -> None:
        adapter, keep = self.adapter, self._handles.append
        keep(adapter.multimodal.register_forward_pre_hook(Hook(self._begin), with_kwargs=True))
        keep(adapter.multimodal.register_forward_hook(Hook(self._end), always_call=True))
        keep(adapter.decoder.register_forward_pre_hook(Hook(self._before_decoder), with_kwargs=True))
        keep(adapter.decoder.register_forward_hook(Hook(self._after_decoder)))
        self._watch.install()
        self._restore_assisting = assisting.install(self._model)
        if self._cuts:
            for index, layer in enumerate(adapter.layers):
                keep(layer.register_forward_pre_hook(Indexed(self._before_layer, index), with_kwargs=True))

    # One forward of the multimodal model -------------------------------------------------------------------------

    def _begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._lock.acquire()  # one forward at a time, for threads that share the context; until _end
        self._turn.held = True
        self._prefill = self._step = None
        if not self._model.config.return_dict:  # some families' own forwards fail on a tuple from within
            kwargs = {**kwargs, "return_dict": True}
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        if getattr(cache, "is_compileable", False):
            raise UnsupportedError(
                f"{type(cache).__name__} has a fixed length and cannot be pruned; use cache_implementation='dynamic'"
            )
        if cache is not None and cache.get_seq_length() > 0:
            return args, self._continue(ids, cache, kwargs)
        self.trace = None
        if ids is None:
            raise UnsupportedError("pruning finds visual tokens by input_ids; pass input_ids, not inputs_embeds")
        if any(bool((ids == token).any()) for token in self.adapter.placeholders.values()):
            return args, self._start(ids, kwargs, kwargs.get("attention_mask"))
        return args, kwargs

    def _start(
        self, ids: Tensor, kwargs: dict[str, Any], mask: Tensor | None, past: Past | None = None, cache: Any = None
    ) -> dict[str, Any]:
        """Begins a prefill; returns the arguments with images encoded and features replaced where the method fuses.

        Args:
            mask: (batch, length) of these tokens.
            past: what the cache holds before them.
        """
        if mask is not None and mask.ndim != 2:
            raise UnsupportedError(
                f"a {mask.ndim}-dimensional attention mask cannot be pruned; pass the 2D padding mask"
            )
        kwargs = self.adapter.encode(kwargs)
        encoded = {name: output for name, output in kwargs["mm_encoder_outputs"].items() if output is not None}
        if not encoded:
            pixels = ", ".join(encoder.pixels for encoder in self.adapter.encoders.values())
            raise UnsupportedError(
                f"the prompt has image placeholders but no pixel_values ({pixels}); pass the processor's output"
            )
        passes = [self._watch.passes.get(name) for name in encoded]
        if any(
            vision_pass is None or output.last_hidden_state is not vision_pass.output.last_hidden_state
            for vision_pass, output in zip(passes, encoded.values(), strict=True)
        ):
            raise UnsupportedError(
                "the images were encoded outside of this context, or cut by prefill_chunk_size; pass pixel_values, not "
                "features, and leave prefill_chunk_size out: a stage sees all of an image at once"
            )
        oracle, self.oracle = self.oracle, None
        prefill = Prefill(
            self.method,
            self.adapter,
            self._reader,
            self._schedule_for,
            ids,
            mask,
            [vision_pass for vision_pass in passes if vision_pass is not None],
            oracle,
            past,
            cache,
        )
        kwargs["mm_encoder_outputs"] = prefill.features(encoded)
        if past is not None and not any(prefill.media):  # all were seen in earlier turns
            self.oracle = oracle
            return self._follow(ids, kwargs, mask, past, cache)
        self.trace = None
        self._prefill = prefill
        return prefill.model_arguments(kwargs)

    def _continue(self, ids: Tensor | None, cache: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a forward behind what a cache holds: text, or a further turn's images, which are pruned."""
        known = mark_of(cache)
        past, pruned = None, False
        if known is not None:
            past, pruned = known.past.fitted(held_lengths(cache)), known.past.pruned
            if pruned and known.owner() is not self:
                raise known.refusal()
            if pruned and past is None:
                raise UnsupportedError(BROKEN)
        # a generated placeholder is only text; an image comes with its pixels or features
        encoded = kwargs.get("mm_encoder_outputs") or {}
        pixels = [kwargs.get(encoder.pixels) for encoder in self.adapter.encoders.values()]
        shows = any(value is not None for value in (*pixels, *encoded.values()))
        if not pruned and not shows and (past is None or not fits(past, ids, kwargs)):
            return kwargs
        if ids is None:
            raise UnsupportedError("pruning continues a cache by input_ids; pass input_ids, not inputs_embeds")
        if not pruned and past is not None and len(ids) != len(past.visual):
            past = None
        if past is not None and len(ids) != len(past.visual):
            raise UnsupportedError(
                f"the batch changed from {len(past.visual)} to {len(ids)} rows on a pruned cache; repeat or select its "
                f"rows by its own batch_repeat_interleave or batch_select_indices"
            )
        mask = fresh_mask(ids, cache, kwargs.get("attention_mask"))
        if past is not None and not shows:
            return self._follow(ids, kwargs, mask, past, cache)
        return self._start(ids, kwargs, mask, past or unknown_past(self.adapter, ids, cache, kwargs), cache)

    def _follow(
        self, ids: Tensor, kwargs: dict[str, Any], mask: Tensor | None, past: Past, cache: Any
    ) -> dict[str, Any]:
        """Arguments of a forward of text behind what a cache holds."""
        valid = None if mask is None else mask.bool()
        anew = counts_anew(self.method.positions, self.adapter)
        self._step = Continuation(self.adapter, past, cache, valid, ids.shape[1], anew)
        return self._step.model_arguments(kwargs)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not getattr(self._turn, "held", False):  # a hook of another library failed before this forward took the lock
            return
        self._prefill = self._step = None
        self._turn.held = False
        self._lock.release()

    def serves(self, cache: Any) -> bool:
        """Whether the current forward continues this pruned cache."""
        current = self._step or self._prefill
        return current is not None and current.cache is cache

    # Decoder -------------------------------------------------------------------------------------------------------

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        current = self._step or self._prefill
        if current is None or not self._cuts:
            return None
        return args, current.decoder_arguments(kwargs)

    def _after_decoder(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        current, prefill = self._step or self._prefill, self._prefill
        if current is None:
            return None
        cache = getattr(output, "past_key_values", None)
        if prefill is not None and prefill.narrowing.pruned:
            output.last_hidden_state = prefill.narrowing.scatter(output.last_hidden_state)
        if cache is not None and self._cuts:
            mark(cache, self, self.method.name, current.after())
        if prefill is not None:
            self.trace = prefill.trace(cache_bytes(cache))
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
        cache = kwargs.get("past_key_values")
        hidden = prefill.enter(index, args[0], kwargs)
        if index in self._cuts:
            number = self._cuts[index]
            hidden = prefill.prune(number, self.schedule.stages[number], hidden, cache)
            if number + 1 == len(self._cuts):
                prefill.held.clear()
        if index in self._read:
            prefill.held[index] = (hidden, prefill.layouts[-1])
        return (hidden, *args[1:]), {**kwargs, **prefill.narrowing.arguments(hidden, cache)}


def _refuse_compiled(model: Any) -> None:
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedError("a compiled model cannot be pruned: its graph has fixed shapes; pass the model itself")


def _refuse_unweighable(method: PruningMethod, adapter: Adapter) -> None:
    attention = str(adapter.decoder.config._attn_implementation)
    if attention not in ("eager", "sdpa"):
        raise UnsupportedError(
            f"method {method.name!r} weighs merged tokens by an attention bias, which {attention} does not take; load "
            f"the model with attention='sdpa', or switch that off in the method (proportional=False)"
        )
