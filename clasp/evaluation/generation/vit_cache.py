"""Caches the outputs of ViT layers by crop: a crop that is encoded again is looked up instead of computed.

The cells of an experiment ask about the same images under many methods and budgets, in batches that differ, and on a
small backbone the ViT takes most of the time. What its layers return for a crop is kept in memory and returned again,
bit for bit, as long as nothing has changed what enters them: methods that merge patches inside the ViT compute from
their first merge on. Layers are replaced, not the tower, so that every hook sees what it would see.

A crop's states may not depend on its neighbours in a batch, or the cache would change answers; so a crop is computed
alone whether anything is cached or not, which on a CPU takes no longer than the whole batch at once.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clasp.backbones import adapter_for

log = logging.getLogger(__name__)

MIB = 2**20
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class _Crop:
    """What a tower's layers returned for one crop, (1, sequence, dim) each, and how many seconds each took."""

    states: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept: bool = True

    @property
    def bytes(self) -> int:
        return sum(state.nbytes for state in self.states)

    def leads_to(self, layer: int, entering: Tensor) -> bool:
        """Whether what enters a layer is, bit for bit, what the layer before it returned for this crop."""
        if not self.kept or layer > len(self.states):
            return False
        return layer == 0 or _same(self.states[layer - 1], entering)


class ViTCache:
    """Replaces the forwards of a model's ViT layers; a context manager that puts them back.

    Layers that take tensors beside their hidden states compute as they are: towers that pack all images into one
    sequence (Qwen), and layers that weigh merged patches.

    Args:
        model: a loaded model on the CPU.
        mebibytes: size of the cache. Once it is full, nothing is replaced: every method asks about the same images in
            the same order, and if newer ones took their place, the first would be gone when the next method asks about
            them. 0: nothing is cached.

    Attributes:
        saved_seconds: time that cached results had taken to compute, summed over the times they were returned, be it
            to another batch or for the same image's second question in one. A measured time plus this is the time
            without the cache.
    """

    def __init__(self, model: Any, mebibytes: int) -> None:
        adapter = adapter_for(model)
        towers = {id(tower): modality for modality in adapter.encoders for tower in [adapter.tower(modality)]}
        self._layers = [list(adapter.vision_layers(modality)) for modality in towers.values()]
        self._limit = mebibytes * MIB
        self._crops: dict[tuple[int, str], _Crop] = {}  # in the order in which they came
        self._passing: list[list[_Crop | None]] = [[] for _ in self._layers]  # of each tower, by place in the batch
        self._bytes = 0
        self.saved_seconds = 0.0

    def __enter__(self) -> ViTCache:
        for tower, layers in enumerate(self._layers):
            for index, layer in enumerate(layers):
                layer.forward = self._forward(tower, index, layer.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for layers in self._layers:
            for layer in layers:
                del layer.forward
        self._passing = [[] for _ in self._layers]

    def _forward(self, tower: int, index: int, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            if args:
                hidden, args = args[0], args[1:]
            else:
                hidden = kwargs.pop("hidden_states")
            if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
                self._passing[tower] = []  # what the layers behind this one get is computed by the method
                return original(hidden, *args, **kwargs)

            def compute(crop: Tensor) -> Tensor:
                return original(crop, *args, **kwargs)

            alone = hidden.contiguous().split(1)
            if index == 0:
                self._passing[tower] = [self._look_up(tower, crop) for crop in alone] if self._limit else []
            passing = self._passing[tower]
            if len(passing) != len(alone):
                passing = self._passing[tower] = [None] * len(alone)
            states = []
            for place, entering in enumerate(alone):
                cached = passing[place]
                if cached is not None and not cached.leads_to(index, entering):
                    cached = passing[place] = None  # from here on the layers' inputs differ, so that they are computed
                states.append(self._state(cached, index, entering, compute))
            return torch.cat(states)  # copies, so that in-place changes do not reach the cache

        return forward

    def _look_up(self, tower: int, crop: Tensor) -> _Crop:
        digest = hashlib.blake2b(crop.view(torch.uint8).numpy(), digest_size=16)
        key = (tower, f"{tuple(crop.shape)}{crop.dtype}{digest.hexdigest()}")
        return self._crops.setdefault(key, _Crop())

    def _state(self, cached: _Crop | None, index: int, entering: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if cached is not None and index < len(cached.states):
            self.saved_seconds += cached.seconds[index]
            return cached.states[index]
        started = time.perf_counter()
        # of a copy, so that neither a crop's place in the batch nor its memory's alignment changes the result
        state = compute(entering.clone())
        if cached is not None:
            self._keep(cached, state, time.perf_counter() - started)
        return state

    def _keep(self, cached: _Crop, state: Tensor, seconds: float) -> None:
        cached.states.append(state)
        cached.seconds.append(seconds)
        self._bytes += state.nbytes
        while self._bytes > self._limit:  # perhaps that crop itself
            _, newest = self._crops.popitem()
            self._bytes -= newest.bytes
            newest.kept = False
            newest.states.clear()


def vit_cache_of(model: Any, mebibytes: int) -> ViTCache | None:
    """A cache of a model's ViT layers; on a CPU also one of size 0, so that the size changes no answer; else None."""
    if model.device.type == "cpu":
        return ViTCache(model, mebibytes)
    if mebibytes:
        message = "vision_cache_mib=%d has no effect on %s: the ViT's share of a question is small there"
        log.info(message, mebibytes, model.device.type)
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two contiguous tensors are equal bit by bit."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    words = INTEGERS[one.element_size()]  # as bits: 0.0 differs from -0.0, and NaN equals itself
    return torch.equal(one.view(words), other.view(words))
