"""One prefill: what each stage keeps, and the shorter sequence that later layers see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from clasp.backbones.base import Adapter, UnsupportedError, VisionPass
from clasp.backbones.prompt import PromptReader
from clasp.budget import Schedule, Stage
from clasp.engine.cache import cut
from clasp.engine.layout import Layout, causal_mask
from clasp.engine.prompts import Placeholders
from clasp.engine.shares import grouped
from clasp.engine.state import StageState
from clasp.engine.trace import Record, Trace, trace
from clasp.engine.vision import FusionView, Medium
from clasp.methods.base import Method
from clasp.methods.contract import Selection
from clasp.ops.select import take


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
        self.passes = passes
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.to(ids.dtype)
        self.ids, valid = torch.stack([ids, mask]).cpu()
        self.valid = valid.bool()
        self.placeholders = Placeholders(adapter, self.ids, self.valid, passes)
        self.media = self.placeholders.media
        self.schedules = [[schedules(medium.tokens) for medium in media] for media in self.media]
        self._prompts = [self.ids[row][self.valid[row]].tolist() for row in range(len(ids))]
        self.categories = list(oracle) if oracle is not None else self._route()
        if self.categories is not None and len(self.categories) != len(ids):
            raise UnsupportedError(f"run.oracle names {len(self.categories)} categories for {len(ids)} prompts")
        self.layouts: list[Layout] = []
        self.held: dict[int, tuple[Tensor, Layout]] = {}
        self.embedded: Tensor | None = None
        self.positions: Tensor | None = None
        self.additions: list[Tensor] = []
        self._records: list[Record] = []
        self._scratch: dict[Any, dict[Any, Any]] = {}

    def scratch_of(self, *key: Any) -> dict[Any, Any]:
        """What the method has noted about a row (sample, its media, its crop), or about a sample's medium."""
        plain = tuple(tuple(map(id, part)) if isinstance(part, list) else part for part in key)
        return self._scratch.setdefault(plain, {})

    def _route(self) -> list[str] | None:
        """Categories of the prompts. Those without an image are not pruned, hence not routed."""
        if type(self.method).route is Method.route:  # reading the instructions takes longer than not to route
            return None
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
        """(batch, length) bool on the CPU over the original sequence: the instruction's tokens, or what else the
        method's span says."""
        if self.method.span() == "after_image":
            return self._after_media()
        marked = torch.zeros_like(self.valid)
        for row, ids in enumerate(self._prompts):
            places = self.valid[row].nonzero().squeeze(1)
            marked[row, places[self.reader.positions(ids)]] = True
        return marked

    def _after_media(self) -> Tensor:
        """(batch, length) bool on the CPU: what is after the last placeholder, else the last token."""
        order = torch.arange(self.valid.shape[1])
        media = order.masked_fill(~self.placeholders.visual, -1).amax(dim=1, keepdim=True)
        after = self.valid & (order > media)
        last = order == order.masked_fill(~self.valid, -1).amax(dim=1, keepdim=True)
        return torch.where(after.any(dim=1, keepdim=True), after, last)

    def origins(self, sample: int, media: Sequence[Medium]) -> Tensor:
        """Places in the original sequence, on the CPU, of all visual tokens of some of a sample's media."""
        slots = [slot for slot, medium in enumerate(self.media[sample]) if medium in media]
        return torch.isin(self.placeholders.medium[sample], torch.tensor(slots)).nonzero().squeeze(1)

    def start(self, hidden: Tensor, arguments: dict[str, Any]) -> None:
        """Takes the original layout from the arguments of the first decoder layer that the engine watches."""
        batch, length = self.ids.shape
        positions = arguments["position_ids"] if self.positions is None else self.positions
        positions = positions if positions.ndim == 3 else positions[None]
        positions = positions.expand(-1, batch, -1)
        index = torch.arange(length).expand(batch, -1)
        cos, sin = arguments["position_embeddings"]
        rotary = (cos.expand(batch, -1, -1), sin.expand(batch, -1, -1))
        padded = not bool(self.valid.all())
        valid = self.valid.to(hidden.device)
        following = self.adapter.next_position(positions, valid)
        mask = arguments.get("attention_mask")
        known = (index, self.valid)
        self.layouts = [Layout(0, index.to(hidden.device), valid, padded, positions, rotary, mask, following, known)]

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
        layout, device = self.layouts[-1], hidden.device
        index, valid = layout.host
        stays = valid & ~self.placeholders.visual.gather(1, index)
        whole, groups = grouped(self, number, index, valid)
        for row in whole:
            stays[row.sample, row.places] = True
        lengths = stays.sum(dim=1).tolist()
        pruned = bool(groups) or not torch.equal(stays, valid)
        # one column more than there are places, for what a selection drops after all
        keep = pad(stays, (0, 1)).to(device, non_blocking=True)
        source = torch.arange(layout.length + 1, device=device).repeat(len(hidden), 1)
        pivots, bias = None, layout.bias
        counted = False
        for shares in groups:
            state = StageState(self, stage, hidden, layout, [share.row for share in shares])
            with state.ambient.off():
                selected = self.method.select(state, shares[0].keep)
            selection = _on(device, _checked(self.method, selected))
            chosen, rows = state.places.gather(1, selection.index), state.samples[:, None]
            places, moved = _order(chosen, selection.valid, layout.length, self._reindexed)
            hidden = _replaced(hidden, rows, chosen, selection)
            if selection.sizes is not None:
                bias = torch.zeros(layout.index.shape, device=device) if bias is None else bias
                bias = bias.index_put((rows, chosen), selection.sizes.float().log())
            keep[rows, moved] = True
            source[rows, moved] = places
            for share in shares:
                lengths[share.row.sample] += places.shape[1]
            counted |= selection.valid is not None
            if selection.pivots is not None:
                pivots = self._pivots(pivots, layout, rows, chosen, selection.pivots)
        if counted:  # how many stay depends on the data
            lengths = keep[:, :-1].sum(dim=1).tolist()
        if pruned:
            layout = replace(layout, bias=bias)
            hidden = self._compact(stage.cut, hidden, keep[:, :-1], source[:, :-1], lengths, layout, cache)
        self._records.append(Record(self.layouts[-1], pivots))
        return hidden

    @property
    def _reindexed(self) -> bool:
        """Whether rotary positions are counted anew after a stage."""
        return self.method.positions == "contiguous" and not self.adapter.geometry.multimodal_rotary

    def _pivots(self, known: Tensor | None, layout: Layout, rows: Tensor, chosen: Tensor, pivot: Tensor) -> Tensor:
        """``known`` (batch, original length) bool with the pivots among the chosen places (rows, keep) marked."""
        length = self.ids.shape[1]
        # one column more, for those that are no pivots
        marked = torch.zeros(len(self.ids), length + 1, dtype=torch.bool, device=chosen.device)
        marked[rows, layout.index[rows, chosen].masked_fill(~pivot, length)] = True
        return marked[:, :-1] if known is None else known | marked[:, :-1]

    def _compact(
        self,
        layer: int,
        hidden: Tensor,
        keep: Tensor,
        source: Tensor,
        lengths: Sequence[int],
        layout: Layout,
        cache: Any,
    ) -> Tensor:
        """Gathers what stays, right-aligned, and appends the layout that layers from ``layer`` on see.

        Args:
            keep: (batch, length) bool, the places that stay.
            source: (batch, length) long, the place from which each is filled.
            lengths: how many stay in each row.
        """
        length = max(lengths)
        slots = keep.int().argsort(dim=1, stable=True)[:, -length:]
        valid = keep.gather(1, slots)
        order = source.gather(1, slots)
        hidden = take(hidden, order)
        padded = min(lengths) < length
        positions = layout.positions.gather(2, order.expand(len(layout.positions), -1, -1))
        if self._reindexed:
            positions = (valid.long().cumsum(dim=1) - 1).clamp(min=0).expand_as(positions)
            following = valid.sum(dim=1)[None, :, None].expand(len(positions), -1, -1)
            rotary = self.adapter.rotary(hidden, positions)
        else:
            rotary = (take(layout.rotary[0], order), take(layout.rotary[1], order))
            following = layout.next_position
        bias = None if layout.bias is None else layout.bias.gather(1, order)
        index = layout.index.gather(1, order)
        compact = Layout(layer, index, valid, padded, positions, rotary, None, following, bias=bias)
        self.layouts.append(replace(compact, mask=causal_mask(self.adapter, hidden, compact, cache)))
        if self.method.cuts_passed and cache is not None:
            cut(cache, layer, order, self.method.name)
        return hidden

    @property
    def cached(self) -> list[Layout]:
        """What the layers of the KV cache hold, the original sequence first."""
        if not self.method.cuts_passed:
            return self.layouts
        return [self.layouts[0], replace(self.layouts[-1], layer=0)]

    def scatter(self, hidden: Tensor) -> Tensor:
        """(batch, shorter, hidden) -> (batch, original length, hidden); dropped and padding rows are zero."""
        layout = self.layouts[-1]
        full = hidden.new_zeros(*self.ids.shape, hidden.shape[-1])
        batch = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(layout.index)
        if not layout.padded:
            return full.index_put_((batch, layout.index), hidden)
        return full.index_put_((batch[layout.valid], layout.index[layout.valid]), hidden[layout.valid])

    def trace(self, kv_bytes: int) -> Trace:
        """What this prefill kept."""
        return trace(self, self._records, kv_bytes)


def _checked(method: Method, selection: Selection) -> Selection:
    """The selection, if it is one for all heads.

    Raises:
        UnsupportedError: it is not.
    """
    if selection.index.ndim != 2:
        raise UnsupportedError(
            f"method {method.name!r} selects an index of shape {tuple(selection.index.shape)}; a budget per head is "
            f"not supported, since all heads of a layer compute on the same tokens: select (rows, keep)"
        )
    return selection


def _on(device: torch.device, selection: Selection) -> Selection:
    parts = {
        name: None if (value := getattr(selection, name)) is None else value.to(device)
        for name in ("index", "replaced", "pivots", "valid", "sizes")
    }
    return replace(selection, **parts)


def _replaced(hidden: Tensor, rows: Tensor, places: Tensor, selection: Selection) -> Tensor:
    """The hidden states with the selection's own features at the kept places (rows, keep)."""
    if selection.features is None:
        return hidden
    features = selection.features.to(hidden.dtype)
    if selection.replaced is not None:
        features = torch.where(selection.replaced[..., None], features, hidden[rows, places])
    return hidden.index_put((rows, places), features)


def _order(places: Tensor, valid: Tensor | None, length: int, own: bool) -> tuple[Tensor, Tensor]:
    """Kept places in the order in which they go on, those that are dropped after all last; and where each of them goes.

    Args:
        places: (rows, keep) places in the layout.
        valid: (rows, keep) bool, or None for all.
        length: of the layout; a place that is dropped goes there.
        own: whether the method's order counts; else they stay in their places' order.
    """
    if valid is not None:
        last = (~valid).int().argsort(dim=1, stable=True)
        places = places.gather(1, last).masked_fill(~valid.gather(1, last), length)
    moved = places.sort(dim=1).values
    return (places if own else moved), moved
