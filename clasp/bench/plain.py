"""What pruning could reach on this machine: each decoder layer at its length, without an engine around it.

The FLOPs-ideal counts multiply-adds. Short sequences do fewer of them per second, since all weights are read for few
tokens; the plain decoder's time at the same lengths has that in it, and nothing of what pruning adds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clasp.backbones import adapter_for
from clasp.bench.probes import timed

PROBES = 6
"""Lengths at which the plain decoder is timed; between them time is taken as linear."""


def probes(lengths: Sequence[int], count: int = PROBES) -> list[int]:
    """At most ``count`` lengths from the shortest to the longest, each longer by the same factor."""
    low, high = min(lengths), max(lengths)
    return sorted({round(low * (high / low) ** (step / (count - 1))) for step in range(count)})


@torch.inference_mode()
def decoder_seconds(model: Any, batch: int, length: int) -> float:
    """One pass of the plain decoder over random embeddings (batch, length, hidden), which fills a cache."""
    decoder = adapter_for(model).decoder
    embedded = torch.randn(batch, length, decoder.config.hidden_size, dtype=model.dtype, device=model.device)
    return timed(lambda: decoder(inputs_embeds=embedded, use_cache=True), model.device)


def layers_seconds(lengths: Sequence[int], measured: Mapping[int, float]) -> float:
    """Seconds of layers that see ``lengths``, one each, from those of whole decoders of as many layers.

    Args:
        measured: length -> seconds of the whole decoder; the shortest and the longest of ``lengths`` are within.
    """
    known = sorted(measured)
    if len(known) == 1:
        return measured[known[0]]
    total = 0.0
    for length in lengths:
        upper = min(max(1, bisect_right(known, length)), len(known) - 1)
        low, high = known[upper - 1], known[upper]
        share = (length - low) / (high - low)
        total += (1 - share) * measured[low] + share * measured[high]
    return total / len(lengths)
