"""One prefill: what each stage keeps, and the shorter sequence that later layers see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError, VisionPass
from clasp.backbones.prompt import PromptReader
from clasp.budget import Schedule, Stage
from clasp.engine.layout import Layout, causal_mask
from clasp.engine.prompts import Placeholders
from clasp.engine.state import Row, StageState
from clasp.engine.trace import Record, Trace, trace
from clasp.engine.vision import CropsView, FusionView, Medium
from clasp.methods.base import Method
from clasp.methods.contract import Selection
from clasp.ops.select import take


@dataclass(frozen=True)
class Share:
    """A row's part of the budget at a stage."""

    row: Row
    keep: int


class Prefill:
    """State of one prefill, from the prompts to the last layer.

    Args:
        schedules: visual tokens of an image -> its schedule.
        ids: (batch, length) input ids.
        attention_mask: (batch, length) or None.
        passes: the encoder's calls for these prompts.
        oracle: true categories of the prompts, where the caller knows them.

    Raises:
        UnsupportedError: the placeholders of the prompts are not those of the encoded images.
    """

    def __init__(
        self,
        method: Method,
        adapter: Adapter,
        reader: PromptReader,
        schedules: Callable[[int], Schedule],
        ids: Tensor,
        attention_mask: Tensor | None,
        passes: Sequence[VisionPass],
        oracle: Sequence[str] | None,
    ) -> None:
        self.method, self.adapter, self.reader = method, adapter, reader
        self.ids, self.passes = ids, passes
        self.valid = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.placeholders = Placeholders(adapter, ids, self.valid, passes)
        self.media = self.placeholders.media
        self.schedules = [[schedules(medium.tokens) for medium in media] for media in self.media]
        self._prompts = [ids[row][self.valid[row]].tolist() for row in range(len(ids))]
        self.categories = list(oracle) if oracle is not None else self._route()
        if self.categories is not None and len(self.categories) != len(ids):
            raise UnsupportedError(f"run.oracle names {len(self.categories)} categories for {len(ids)} prompts")
        self.layouts: list[Layout] = []
        self.look: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self.embedded: Tensor | None = None
        self.positions: Tensor | None = None
        self.additions: list[Tensor] = []
        self._records: list[Record] = []

    def _route(self) -> list[str] | None:
        """Categories of the prompts. Those without an image are not pruned, hence not routed."""
        seeing = [row for row, media in enumerate(self.media) if media]
        routed = self.method.route([self.prompt(row) for row in seeing])
        if routed is None:
            return None
        known = dict(zip(seeing, routed, strict=True))
        return [known.get(row, "") for row in range(len(self.media))]

    def prompt(self, sample: int) -> str:
        """The instruction of a prompt."""
        return self.reader.text(self._prompts[sample])

    def fused(self) -> dict[str, list[Tensor] | Tensor]:
        """Projected features by modality, where the method fuses ViT layers for a prompt of this batch."""
        changed: dict[tuple[int, int], Tensor] = {}
        for row, media in enumerate(self.media):
            category = self.categories[row] if self.categories is not None else None
            for medium in media:
                key = (id(medium.seen), medium.item)
                if key not in changed and (fused := self.method.fuse(FusionView(medium), category)) is not None:
                    changed[key] = self.adapter.reassemble(medium.seen, medium.item, fused)
        return {seen.modality: self._pooled(seen, changed) for seen in self.passes if self._changes(seen, changed)}

    @staticmethod
    def _changes(seen: VisionPass, changed: dict[tuple[int, int], Tensor]) -> bool:
        return any(key == id(seen) for key, _ in changed)

    def _pooled(self, seen: VisionPass, changed: dict[tuple[int, int], Tensor]) -> list[Tensor] | Tensor:
        """Features of a modality in the shape that the backbone's forward takes, repeated as beams repeat prompts."""
        own = seen.output.pooler_output
        ends = torch.tensor(self.adapter.counts(seen)).cumsum(0).tolist()
        flat = own.flatten(0, -2) if isinstance(own, Tensor) else torch.cat(list(own))
        parts = []
        for media in self.media:
            for medium in (m for m in media if m.seen is seen):
                end = ends[medium.item]
                plain = flat[end - medium.tokens : end]
                parts.append(changed.get((id(seen), medium.item), plain).to(plain.dtype))
        return torch.cat(parts).unflatten(0, (-1, own.shape[-2])) if isinstance(own, Tensor) else parts

    @cached_property
    def instruction(self) -> Tensor:
        """(batch, length) bool over the original sequence: the instruction's tokens."""
        marked = torch.zeros_like(self.valid)
        for row, ids in enumerate(self._prompts):
            places = self.valid[row].nonzero().squeeze(1)
            marked[row, places[self.reader.positions(ids)]] = True
        return marked

    def start(self, hidden: Tensor, arguments: dict[str, Any]) -> None:
        """Takes the original layout from the arguments of the first decoder layer that the engine watches."""
        batch, length = self.ids.shape
        positions = arguments["position_ids"] if self.positions is None else self.positions
        positions = positions if positions.ndim == 3 else positions[None]
        positions = positions.expand(-1, batch, -1)
        index = torch.arange(length, device=hidden.device).expand(batch, -1)
        cos, sin = arguments["position_embeddings"]
        rotary = (cos.expand(batch, -1, -1), sin.expand(batch, -1, -1))
        padded = not bool(self.valid.all())
        following = self.adapter.next_position(positions, self.valid)
        mask = arguments.get("attention_mask")
        self.layouts = [Layout(0, index, self.valid, padded, positions, rotary, mask, following)]

    def add(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of a layer with what the backbone's decoder adds to the output of the one before it."""
        if not 0 < layer <= len(self.additions):
            return hidden
        return hidden + take(self.additions[layer - 1], self.layouts[-1].index)

    def prune(self, number: int, stage: Stage, hidden: Tensor, cache: Any) -> Tensor:
        """Applies the ``number``-th stage to the input of decoder layer ``stage.cut``.

        Args:
            hidden: (batch, length, hidden) in the current layout.

        Returns:
            (batch, shorter length, hidden), or ``hidden`` itself when nothing is to be dropped.
        """
        layout = self.layouts[-1]
        visual = self.placeholders.visual.gather(1, layout.index) & layout.valid
        keep = layout.valid & ~visual
        source = torch.arange(layout.length + 1, device=hidden.device).repeat(len(hidden), 1)
        pivots: Tensor | None = None
        pruned = False
        whole, groups = self._groups(number, layout)
        for row in whole:
            keep[row.sample, row.places.to(keep.device)] = True
        for shares in groups:
            state = StageState(self, stage, hidden, layout, [share.row for share in shares])
            selection = _on(hidden.device, self.method.select(state, shares[0].keep))
            places, kept, moved = _order(state.places.gather(1, selection.index), selection.valid, layout.length)
            rows = state.samples[:, None]
            hidden = _replaced(hidden, rows, state, selection)
            keep[rows.expand_as(places)[kept], places[kept]] = True
            source[rows, moved] = places
            if selection.pivots is not None:
                pivots = torch.zeros_like(self.valid) if pivots is None else pivots
                chosen = state.places.gather(1, selection.index)
                original = layout.index[rows, chosen]
                pivots[rows.expand_as(original)[selection.pivots], original[selection.pivots]] = True
            pruned = True
        if pruned or bool((keep != layout.valid).any()):
            hidden = self._compact(stage.cut, hidden, keep, source[:, :-1], layout, cache)
        self._records.append(Record(self.layouts[-1], pivots))
        return hidden

    def _groups(self, number: int, layout: Layout) -> tuple[list[Row], list[list[Share]]]:
        """Rows that stay whole, and the others in groups of equal size and budget, each for one call of the method."""
        index, valid = torch.stack([layout.index, layout.valid.long()]).cpu()
        medium = self.placeholders.medium.gather(1, index).masked_fill(valid == 0, -1)
        place = self.placeholders.place.gather(1, index)
        whole: list[Row] = []
        groups: dict[tuple[int, int, int], list[Share]] = {}
        for share in self._shares(number, medium, place):
            if share.keep >= len(share.row.places):
                whole.append(share.row)
            elif share.keep > 0:
                key = (len(share.row.places), share.keep, sum(m.tokens for m in share.row.media))
                groups.setdefault(key, []).append(share)
        return whole, list(groups.values())

    def _shares(self, number: int, medium: Tensor, place: Tensor) -> Iterator[Share]:
        """Every row of this stage with its budget: samples, media or crops, by the method's scope."""
        for sample, media in enumerate(self.media):
            budgets = [schedule.stages[number].keep for schedule in self.schedules[sample]]
            if media and self.method.scope == "sample":
                places = (medium[sample] >= 0).nonzero().squeeze(1)
                offsets = torch.tensor([0, *(m.tokens for m in media)]).cumsum(0)
                tokens = place[sample, places] + offsets[medium[sample, places]]
                yield Share(Row(sample, media, places, tokens), sum(budgets))
                continue
            for slot, (one, budget) in enumerate(zip(media, budgets, strict=True)):
                places = (medium[sample] == slot).nonzero().squeeze(1)
                row = Row(sample, [one], places, place[sample, places])
                if self.method.scope == "image" or budget >= len(places):
                    yield Share(row, budget)
                else:
                    yield from self._crop_shares(one, row, budget)

    def _crop_shares(self, medium: Medium, row: Row, budget: int) -> Iterator[Share]:
        owner = medium.crops()[row.tokens]
        crops = [(owner == number).nonzero().squeeze(1) for number in range(medium.crop_total())]
        sizes = [len(crop) for crop in crops]
        loose = (owner < 0).nonzero().squeeze(1)[: max(0, budget - sum(sizes))]
        if len(loose):
            yield Share(Row(row.sample, row.media, row.places[loose], row.tokens[loose]), len(loose))
        parts = self.method.allocate(CropsView(medium, sizes), budget - len(loose))
        for number, (crop, part) in enumerate(zip(crops, parts, strict=True)):
            if len(crop):
                yield Share(Row(row.sample, row.media, row.places[crop], row.tokens[crop], number), part)

    def _compact(self, layer: int, hidden: Tensor, keep: Tensor, source: Tensor, layout: Layout, cache: Any) -> Tensor:
        """Gathers what stays, right-aligned, and appends the layout that layers from ``layer`` on see."""
        lengths = keep.sum(dim=1)
        length = int(lengths.max())
        slots = keep.int().argsort(dim=1, stable=True)[:, -length:]
        valid = keep.gather(1, slots)
        order = source.gather(1, slots)
        hidden = take(hidden, order)
        padded = bool((lengths != length).any())
        positions = layout.positions.gather(2, order.expand(len(layout.positions), -1, -1))
        if self.method.positions == "contiguous" and not self.adapter.geometry.multimodal_rotary:
            positions = (valid.long().cumsum(dim=1) - 1).clamp(min=0).expand_as(positions)
            following = lengths[None, :, None].expand(len(positions), -1, -1)
            rotary = self.adapter.rotary(hidden, positions)
        else:
            rotary = (take(layout.rotary[0], order), take(layout.rotary[1], order))
            following = layout.next_position
        compact = Layout(layer, layout.index.gather(1, order), valid, padded, positions, rotary, None, following)
        self.layouts.append(replace(compact, mask=causal_mask(self.adapter, hidden, compact, cache)))
        return hidden

    def scatter(self, hidden: Tensor) -> Tensor:
        """(batch, shorter, hidden) -> (batch, original length, hidden); dropped and padding rows are zero."""
        layout = self.layouts[-1]
        full = hidden.new_zeros(*self.ids.shape, hidden.shape[-1])
        batch = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(layout.index)
        return full.index_put((batch[layout.valid], layout.index[layout.valid]), hidden[layout.valid])

    def trace(self, kv_bytes: int) -> Trace:
        """What this prefill kept."""
        return trace(self, self._records, kv_bytes)


def _on(device: torch.device, selection: Selection) -> Selection:
    parts = {
        name: None if (value := getattr(selection, name)) is None else value.to(device)
        for name in ("index", "replaced", "pivots", "valid")
    }
    return replace(selection, **parts)


def _replaced(hidden: Tensor, rows: Tensor, state: StageState, selection: Selection) -> Tensor:
    """The hidden states with the selection's own features at the kept places."""
    if selection.features is None:
        return hidden
    places = state.places.gather(1, selection.index)
    features = selection.features.to(hidden.dtype)
    if selection.replaced is not None:
        features = torch.where(selection.replaced[..., None], features, hidden[rows, places])
    return hidden.index_put((rows, places), features)


def _order(places: Tensor, valid: Tensor | None, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kept places in the method's order, those that are dropped after all last; which are kept; and where each goes.

    Args:
        places: (rows, keep) places in the layout.
        valid: (rows, keep) bool, or None for all.
        length: of the layout; a place that is dropped goes there.
    """
    if valid is None:
        return places, torch.ones_like(places, dtype=torch.bool), places.sort(dim=1).values
    last = (~valid).int().argsort(dim=1, stable=True)
    places, valid = places.gather(1, last), valid.gather(1, last)
    return places, valid, places.masked_fill(~valid, length).sort(dim=1).values
