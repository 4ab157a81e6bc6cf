"""What a run costs: arithmetic by the papers' formulas, and measured seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from clasp.budget import Geometry

Formula = Literal["gated", "two_matrix"]
FORMULAS: tuple[Formula, ...] = ("gated", "two_matrix")


def prefill_flops(
    geometry: Geometry, visual_per_layer: Sequence[float], text_tokens: float = 0.0, formula: Formula = "gated"
) -> float:
    """Multiply-adds of the decoder layers in one prefill, as the pruning papers count them.

    Per layer with n tokens, width d and FFN width m: 4 n d^2 + 2 n^2 d + k n d m, where k = 3 for the gated FFN that
    the model really has (SparseVLM's code, PDrop) and k = 2 for the formula of FastV and DivPrune. Keys and values
    narrower than d (grouped-query attention) count as narrow. Embeddings, head and vision tower are left out.

    Args:
        visual_per_layer: visual tokens that each decoder layer computes on.
        text_tokens: text tokens beside them; papers count 0.

    Returns:
        Multiply-adds; 3.817e12 for LLaVA-1.5-7B with 576 visual tokens, gated, no text.
    """
    d, m = geometry.hidden, geometry.ffn
    matrices = {"gated": 3, "two_matrix": 2}[formula]
    total = 0.0
    for visual in visual_per_layer:
        n = visual + text_tokens
        total += 2 * n * d * d + 2 * n * d * geometry.kv_dim + 2 * n * n * d + matrices * n * d * m
    return total


class Stopwatch:
    """Seconds that a model spends in its vision tower, in prefill and in decoding, while the context is open.

    Prefill is the multimodal forward over a prompt without the vision tower: embedding, routing, fusion, selection
    and all decoder layers. Open it before the pruning context, so that the pruning is inside what it times. On a GPU
    each reading waits for the device.

    Attributes:
        vision_seconds, prefill_seconds, decode_seconds: totals.
        decode_calls: forwards on a filled cache; a further turn of a conversation counts as one.
    """

    def __init__(self, model: Any) -> None:
        from clasp.backbones import adapter_for

        adapter = adapter_for(model)
        self.vision_seconds = self.prefill_seconds = self.decode_seconds = 0.0
        self.decode_calls = 0
        self._model, self._multimodal = model, adapter.multimodal
        self._towers = list({id(t): t for t in map(adapter.tower, adapter.encoders)}.values())
        self._handles: list[Any] = []
        self._started = self._vision_started = self._vision_before = 0.0
        self._decoding = False

    def __enter__(self) -> Stopwatch:
        self._handles = [
            self._multimodal.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._multimodal.register_forward_hook(self._end),
            *(tower.register_forward_pre_hook(self._begin_vision) for tower in self._towers),
            *(tower.register_forward_hook(self._end_vision) for tower in self._towers),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        self._decoding = cache is not None and cache.get_seq_length() > 0
        self._vision_before, self._started = self.vision_seconds, self._now()

    def _end(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        seconds = self._now() - self._started
        if self._decoding:
            self.decode_seconds += seconds
            self.decode_calls += 1
        else:
            self.prefill_seconds += seconds - (self.vision_seconds - self._vision_before)

    def _begin_vision(self, module: Any, args: tuple[Any, ...]) -> None:
        self._vision_started = self._now()

    def _end_vision(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self.vision_seconds += self._now() - self._vision_started

    def _now(self) -> float:
        if self._model.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._model.device)
        return time.perf_counter()
