"""Which visual tokens are ranked together at a stage, and how many of them may stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clasp.engine.vision import CropsView, Medium, Row

if TYPE_CHECKING:
    from clasp.engine.prefill import Prefill


@dataclass(frozen=True)
class Share:
    """A row's part of the budget at a stage."""

    row: Row
    keep: int


def grouped(prefill: Prefill, number: int, index: Tensor, valid: Tensor) -> tuple[list[Row], list[list[Share]]]:
    """Rows that stay whole, and the others in groups of equal size, frames and budget, each for one call of the method.

    Args:
        number: of the stage.
        index, valid: of the layout that enters it, on the CPU.
    """
    medium = prefill.placeholders.medium.gather(1, index).masked_fill(~valid, -1)
    place = prefill.placeholders.place.gather(1, index)
    whole: list[Row] = []
    groups: dict[tuple[int, ...], list[Share]] = {}
    for share in _shares(prefill, number, medium, place):
        original = sum(m.tokens for m in share.row.media)
        if share.keep >= (original if prefill.method.own_counts else len(share.row.places)):
            whole.append(share.row)
        elif share.keep > 0:
            frames = (m.frame_count() if m.vision_pass.modality == "video" else 0 for m in share.row.media)
            key = (len(share.row.places), share.keep, original, *frames)
            groups.setdefault(key, []).append(share)
    return whole, list(groups.values())


def _shares(prefill: Prefill, number: int, medium: Tensor, place: Tensor) -> Iterator[Share]:
    """Every row of this stage with its budget: samples, media or crops, by the method's scope."""
    for sample, media in enumerate(prefill.media):
        if not media:
            continue
        scope = prefill.method.scope_at(prefill.schedules[sample][0].stages[number])
        budgets = [schedule.stages[number].keep for schedule in prefill.schedules[sample]]
        if scope == "sample":
            places = (medium[sample] >= 0).nonzero().squeeze(1)
            offsets = torch.tensor([0, *(m.tokens for m in media)]).cumsum(0)
            tokens = place[sample, places] + offsets[medium[sample, places]]
            yield Share(Row(sample, media, places, tokens), sum(budgets))
            continue
        for slot, (one, budget) in enumerate(zip(media, budgets, strict=True)):
            places = (medium[sample] == slot).nonzero().squeeze(1)
            row = Row(sample, [one], places, place[sample, places])
            if scope == "image" or budget >= len(places):
                yield Share(row, budget)
            else:
                yield from _crop_shares(prefill, one, row, budget)


def _crop_shares(prefill: Prefill, medium: Medium, row: Row, budget: int) -> Iterator[Share]:
    owner = medium.crops()[row.tokens]
    crops = [(owner == number).nonzero().squeeze(1) for number in range(medium.crop_total())]
    held = sum(map(len, crops))
    loose = (owner < 0).nonzero().squeeze(1)[: max(0, budget - held)]
    if len(loose):
        yield Share(Row(row.sample, row.media, row.places[loose], row.tokens[loose]), len(loose))
    parts = prefill.method.allocate(CropsView(prefill, row, crops), budget - len(loose))
    for number, (crop, part) in enumerate(zip(crops, parts, strict=True)):
        if len(crop):
            yield Share(Row(row.sample, row.media, row.places[crop], row.tokens[crop], number), part)
