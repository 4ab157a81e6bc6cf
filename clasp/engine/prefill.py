"""One prefill: what each stage keeps, and the shorter sequence that later layers see.

It may follow on what a cache holds, in a later turn of a conversation: then only the new images are pruned, and
attention that a method reads includes the cache's tokens.
"""

from __future__ import annotations

import copy
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
from clasp.engine.decoding import checked, counts_anew, first_arguments, plain
from clasp.engine.layout import Layout
from clasp.engine.narrowing import Narrowing
from clasp.engine.past import Past, count_before
from clasp.engine.prompts import Placeholders
from clasp.engine.shares import grouped
from clasp.engine.state import StageState
from clasp.engine.trace import Record, Trace, trace
from clasp.engine.vision import FusionView, Medium
from clasp.methods.protocols import PruningMethod, Selection
from clasp.ops.select import take


class Prefill:
    """State of one prefill, from the prompts to the last layer.

    Args:
        schedules: visual tokens of an image -> its schedule.
        ids: (batch, length) input ids.
        attention_mask: (batch, length) or None.
        passes: the encoder's calls for these prompts.
        oracle: true categories of the prompts, where the caller knows them.
        past: what the cache holds before them; None: nothing.
        cache: the cache itself.

    Raises:
        UnsupportedError: the placeholders of the prompts are not those of the encoded images.
    """

    def __init__(
        self,
        method: PruningMethod,
        adapter: Adapter,
        reader: PromptReader,
        schedules: Callable[[int], Schedule],
        ids: Tensor,
        attention_mask: Tensor | None,
        passes: Sequence[VisionPass],
        oracle: Sequence[str] | None,
        past: Past | None = None,
        cache: Any = None,
    ) -> None:
        self.method, self.adapter, self.reader = method, adapter, reader
        self.passes, self.past, self.cache = passes, past, cache
        mask = torch.ones_like(ids) if attention_mask is None else attention_mask.to(ids.dtype)
        self.ids, valid = torch.stack([ids, mask]).cpu()
        self.valid = valid.bool()
        self.placeholders = Placeholders(adapter, self.ids, self.valid, passes, None if past is None else past.visual)
        self.media = self.placeholders.media
        self.schedules = [[schedules(medium.tokens) for medium in media] for media in self.media]
        self._prompts = [self.ids[row][self.valid[row]].tolist() for row in range(len(ids))]
        self.categories = list(oracle) if oracle is not None and any(self.media) else self._route()
        if self.categories is not None and len(self.categories) != len(ids):
            raise UnsupportedError(f"run.oracle names {len(self.categories)} categories for {len(ids)} prompts")
        self._reindexed = counts_anew(method.positions, adapter)
        self.narrowing = Narrowing(adapter, self.valid, past, self._reindexed)
        self.held: dict[int, tuple[Tensor, Layout]] = {}
        self.embedded: Tensor | None = None
        self.positions: Tensor | None = None
        self.additions: list[Tensor] = []
        self._records: list[Record] = []
        self._scratch: dict[Any, dict[Any, Any]] = {}

    def scratch_of(self, *key: Any) -> dict[Any, Any]:
        """The method's notes about a row (its sample, media and crop), or about one medium of a sample."""
        plain = tuple(tuple(map(id, part)) if isinstance(part, list) else part for part in key)
        return self._scratch.setdefault(plain, {})

    def _route(self) -> list[str] | None:
        """Categories of the prompts. Those without an image are not pruned, hence not routed."""
        if type(self.method).route is PruningMethod.route:  # reading the instructions takes longer than not to route
            return None
        with_images = [row for row, media in enumerate(self.media) if media]
        if not with_images:
            return None
        routed = self.method.route([self.prompt(row) for row in with_images])
        if routed is None:
            return None
        known = dict(zip(with_images, routed, strict=True))
        return [known.get(row, "") for row in range(len(self.media))]

    def prompt(self, sample: int) -> str:
        """The instruction of a prompt."""
        return self.reader.text(self._prompts[sample])

    def features(self, encoded: dict[str, Any]) -> dict[str, Any]:
        """The encoder's outputs as the backbone's forward takes them, by modality: with features of its own where the
        method fuses ViT layers, and without media that were seen in an earlier turn."""
        fused: dict[tuple[int, int], Tensor] = {}
        for row, media in enumerate(self.media):
            category = self.categories[row] if self.categories is not None else None
            for medium in media:
                key = (id(medium.vision_pass), medium.item)
                if key not in fused and (own := self.method.fuse(FusionView(medium), category)) is not None:
                    fused[key] = self.adapter.reassemble(medium.vision_pass, medium.item, own)
        changed: dict[str, Any] = {}
        for vision_pass in self.passes:
            shown = [medium for media in self.media for medium in media if medium.vision_pass is vision_pass]
            output = encoded[vision_pass.modality]
            if vision_pass.modality in self.placeholders.earlier:
                output = self.adapter.part(vision_pass, [medium.item for medium in shown]) if shown else None
            if any(key == id(vision_pass) for key, _ in fused):
                output = copy.copy(output)
                output.pooler_output = self._pooled(vision_pass, shown, fused)
            changed[vision_pass.modality] = output
        return changed

    def _pooled(
        self, vision_pass: VisionPass, shown: Sequence[Medium], fused: dict[tuple[int, int], Tensor]
    ) -> list[Tensor] | Tensor:
        """Features of some media in the shape that the backbone's forward takes."""
        own = vision_pass.output.pooler_output
        ends = torch.tensor(self.adapter.counts(vision_pass)).cumsum(0).tolist()
        flat = own.flatten(0, -2) if isinstance(own, Tensor) else torch.cat(list(own))
        parts = []
        for medium in shown:
            end = ends[medium.item]
            plain = flat[end - medium.tokens : end]
            parts.append(fused.get((id(vision_pass), medium.item), plain).to(plain.dtype))
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

    def model_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The multimodal forward's arguments with the positions of the whole conversation, where the cache's past is
        known.

        Raises:
            UnsupportedError: others were given, where they are the caller's.
        """
        if self.past is None:
            return kwargs
        media = [(medium.vision_pass, medium.item) for media in self.media for medium in media]
        start = self.past.given.next_position
        expected = self.adapter.continued(self.ids, self.valid, media, start, kwargs)
        return {**kwargs, "position_ids": plain(checked(self.adapter, expected, self._real(start.device), kwargs))}

    def decoder_arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments as layer 0 has them; takes what goes into the decoder from them."""
        if self.past is not None:
            device = kwargs["inputs_embeds"].device
            before, real = count_before(self.valid).to(device), self._real(device)
            own = first_arguments(self.past, before, real, self.valid.shape[1], self._reindexed)
            kwargs = {**kwargs, **own}
        self.embedded, self.positions = kwargs["inputs_embeds"], kwargs.get("position_ids")
        kwargs, self.additions = self.adapter.additions(kwargs)
        return kwargs

    def _real(self, device: torch.device) -> Tensor | None:
        """(batch, length) bool; None where no token is padding."""
        return None if bool(self.valid.all()) else self.valid.to(device)

    @property
    def layouts(self) -> list[Layout]:
        """By layer; the latest is the current one."""
        return self.narrowing.layouts

    def enter(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The input of decoder layer ``index``, before its stage drops any of it."""
        if not self.layouts:  # the first layer that the engine watches
            positions = kwargs["position_ids"] if self.positions is None else self.positions
            self.narrowing.start(hidden, positions, kwargs["position_embeddings"])
        self.narrowing.enter(index, hidden)
        return self._add(index, hidden)

    def _add(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of a layer, with what the backbone's decoder adds to the output of the layer before it."""
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
        # one column more than there are places, for entries of a selection that are not valid
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
            hidden = self.narrowing.compact(stage.cut, hidden, keep[:, :-1], source[:, :-1], lengths, bias)
            if self.method.cuts_passed and cache is not None:
                self.narrowing.cut(cache, self.method.name)
        self._records.append(Record(self.layouts[-1], pivots))
        return hidden

    def _pivots(self, known: Tensor | None, layout: Layout, rows: Tensor, chosen: Tensor, pivot: Tensor) -> Tensor:
        """``known`` (batch, original length) bool with the pivots among the chosen places (rows, keep) marked."""
        length = self.ids.shape[1]
        # one column more, for those that are no pivots
        marked = torch.zeros(len(self.ids), length + 1, dtype=torch.bool, device=chosen.device)
        marked[rows, layout.index[rows, chosen].masked_fill(~pivot, length)] = True
        return marked[:, :-1] if known is None else known | marked[:, :-1]

    def after(self) -> Past:
        """What the cache holds after this prefill."""
        modalities = list(self.adapter.placeholders)
        visual = [
            [sum(m.tokens for m in media if m.vision_pass.modality == name) for name in modalities]
            for media in self.media
        ]
        return self.narrowing.after(self._tail(), visual, self.method.cuts_passed)

    def _tail(self) -> int:
        """How many of the last tokens are text in every row, so that all layers hold them, one position each."""
        if len(self.layouts[0].positions) == 3 and any(vision_pass.modality == "video" for vision_pass in self.passes):
            return 0  # a long video's last times may be larger than the positions of the text behind it
        text = self.valid & ~self.placeholders.visual
        return int(text.flip(1).long().cumprod(dim=1).sum(dim=1).min())

    def trace(self, kv_bytes: int) -> Trace:
        """What this prefill kept."""
        return trace(self, self._records, kv_bytes)


def _checked(method: PruningMethod, selection: Selection) -> Selection:
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
    """Kept places in the order of the later layers, entries that are not valid last; and the place of each there.

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
