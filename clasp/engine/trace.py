"""What a prefill kept, for its caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clasp.budget import Schedule
from clasp.engine.layout import Layout

if TYPE_CHECKING:
    from clasp.engine.prefill import Prefill


@dataclass(frozen=True)
class SampleTrace:
    """What happened to one prompt.

    ``kept`` holds one ascending index tensor per stage into the prompt's visual tokens; ``pivots`` a matching bool
    tensor per stage where the method distinguishes pivots from completion; both are on the CPU. The per-layer counts
    are visual tokens of the whole prompt, ``visual_cached`` those in the layer's KV cache after the prefill;
    ``nominal`` is the budget of its images and videos together, as :class:`~clasp.budget.TokenCounts` counts it.
    """

    category: str | None
    kept: tuple[Tensor, ...]
    pivots: tuple[Tensor | None, ...]
    images: int
    visual_entering: tuple[int, ...]
    visual_leaving: tuple[int, ...]
    visual_cached: tuple[int, ...]
    nominal: float
    text_tokens: int


@dataclass(frozen=True)
class Trace:
    """The latest prefill: one entry per prompt of the batch, and the bytes of the batch's KV cache after it.

    ``fallbacks`` names what replaced something that the backbone or this machine lacks.
    """

    samples: tuple[SampleTrace, ...]
    kv_bytes: int
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """The layout after a stage, and (batch, original length) bool of the pivots, where the method names them."""

    layout: Layout
    pivots: Tensor | None


def trace(prefill: Prefill, records: Sequence[Record], kv_bytes: int) -> Trace:
    """The trace of a finished prefill."""
    visual = prefill.placeholders.visual
    lengths, counts = prefill.valid.sum(dim=1).tolist(), visual.sum(dim=1).tolist()
    hosts = [record.layout.host for record in records]
    marked = [None if record.pivots is None else record.pivots.cpu() for record in records]
    samples = []
    for row, media in enumerate(prefill.media):
        ordinal = visual[row].long().cumsum(dim=0) - 1
        kept, pivots = [], []
        for (index, valid), pivot in zip(hosts, marked, strict=True) if media else ():
            stays = torch.zeros_like(visual[row])
            stays[index[row][valid[row]]] = True
            stays &= visual[row]
            kept.append(ordinal[stays])
            pivots.append(None if pivot is None else pivot[row][stays])
        schedules = prefill.schedules[row]
        stages = [
            replace(stage, keep=len(here))
            for stage, here in zip(schedules[0].stages if media else (), kept, strict=True)
        ]
        schedule = Schedule(counts[row], len(prefill.adapter.layers), tuple(stages))
        samples.append(
            SampleTrace(
                category=prefill.categories[row] or None if prefill.categories is not None else None,
                kept=tuple(kept),
                pivots=tuple(pivots),
                images=len(media),
                visual_entering=schedule.entering(),
                visual_leaving=schedule.leaving(),
                visual_cached=schedule.leaving()[-1:] * schedule.layers
                if prefill.method.cuts_passed
                else schedule.entering(),
                nominal=sum(one.token_counts().nominal for one in schedules),
                text_tokens=lengths[row] - counts[row],
            )
        )
    return Trace(tuple(samples), kv_bytes, prefill.method.fallbacks(prefill.adapter.geometry))
