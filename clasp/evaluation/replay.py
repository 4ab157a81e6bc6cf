"""ViT layers that have seen a batch before give what they gave then.

The cells of an experiment ask the same questions about the same pictures under many methods, in the same batches, and
on a small backbone the ViT takes most of the time. What its layers return for a batch is kept in memory and returned
again, bit for bit, as long as nothing has changed what enters them: methods that merge patches inside the ViT compute
from their first merge on. Layers are replaced, not the tower, so that every hook sees what it would see.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clasp.backbones import adapter_for

MIB = 2**20


@dataclass
class _Seen:
    """What the layers of a tower returned for one batch, and how long each took."""

    outputs: list[Any] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes: int = 0


class Replay:
    """The memory of a model's ViT layers; a context manager that replaces their forwards and puts them back.

    Args:
        model: a loaded model on the CPU.
        mebibytes: how much is kept; the batch that was used longest ago goes first.

    Attributes:
        saved_seconds: what the layers took when they computed what has been returned again since. Added to a measured
            time, it gives what the work would have taken.
    """

    def __init__(self, model: Any, mebibytes: int) -> None:
        adapter = adapter_for(model)
        towers = {id(tower): modality for modality in adapter.encoders for tower in [adapter.tower(modality)]}
        self._layers = [list(adapter.vision_layers(modality)) for modality in towers.values()]
        self._limit = mebibytes * MIB
        self._batches: OrderedDict[tuple[int, str], _Seen] = OrderedDict()
        self._current: _Seen | None = None
        self._bytes = 0
        self.saved_seconds = 0.0

    def __enter__(self) -> Replay:
        for tower, layers in enumerate(self._layers):
            for index, layer in enumerate(layers):
                layer.forward = self._forward(tower, index, layer, layer.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for layers in self._layers:
            for layer in layers:
                del layer.forward
        self._current = None

    def _forward(self, tower: int, index: int, layer: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            others = [*args[1:], *(value for name, value in kwargs.items() if name != "hidden_states")]
            plain = not any(isinstance(value, Tensor) for value in others)
            if index == 0:
                self._current = self._look_up(tower, hidden) if plain else None
            seen = self._current
            if seen is None or not plain or (index > 0 and hidden is not _hidden(seen, index - 1)):
                self._current = None  # from here on the layers compute something of their own
                return original(*args, **kwargs)
            if index == len(seen.outputs):
                started = time.perf_counter()
                output = original(*args, **kwargs)
                self._keep(seen, output, time.perf_counter() - started)
                return output
            self.saved_seconds += seen.seconds[index]
            return seen.outputs[index]

        return forward

    def _look_up(self, tower: int, hidden: Tensor) -> _Seen:
        digest = hashlib.blake2b(hidden.contiguous().view(torch.uint8).numpy(), digest_size=16)
        key = (tower, f"{tuple(hidden.shape)}{hidden.dtype}{digest.hexdigest()}")
        seen = self._batches.setdefault(key, _Seen())
        self._batches.move_to_end(key)
        return seen

    def _keep(self, seen: _Seen, output: Any, seconds: float) -> None:
        seen.outputs.append(output)
        seen.seconds.append(seconds)
        tensor = _hidden(seen, len(seen.outputs) - 1)
        seen.bytes += tensor.numel() * tensor.element_size()
        self._bytes += tensor.numel() * tensor.element_size()
        while self._bytes > self._limit and len(self._batches) > 1:
            _, oldest = self._batches.popitem(last=False)
            self._bytes -= oldest.bytes


def _hidden(seen: _Seen, index: int) -> Tensor:
    """The hidden states in a layer's output."""
    output = seen.outputs[index]
    return output[0] if isinstance(output, tuple) else output
