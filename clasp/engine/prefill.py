"""One prefill: where the visual tokens are, what each stage keeps, and the shorter sequence that later layers see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError
from clasp.backbones.prompt import PromptReader
from clasp.budget import Schedule, Stage
from clasp.engine.layout import Layout, causal_mask
from clasp.engine.state import StageState
from clasp.engine.vision import VisionPass, VisionTower
from clasp.methods.base import Method, Selection
from clasp.ops.select import take


@dataclass(frozen=True)
class SampleTrace:
    """What happened to one prompt.

    ``kept`` holds one ascending index tensor per stage into the prompt's visual tokens; ``pivots`` a matching bool
    tensor per stage where the method tells relevance from coverage. The per-layer counts are visual tokens of the
    whole prompt.
    """

    category: str | None
    kept: tuple[Tensor, ...]
    pivots: tuple[Tensor | None, ...]
    images: int
    visual_entering: tuple[int, ...]
    visual_leaving: tuple[int, ...]
    text_tokens: int


@dataclass(frozen=True)
class Trace:
    """The latest prefill: one entry per prompt of the batch, and the bytes of the batch's KV cache after it."""

    samples: tuple[SampleTrace, ...]
    kv_bytes: int


class Prefill:
    """State of one prefill, from the prompts to the last layer.

    Args:
        ids: (batch, length) input ids.
        attention_mask: (batch, length) or None.
        seen: the vision tower's pass over the prompts' images, in prompt order. Beam search repeats prompts after that
            pass, so a row may share its images with its neighbours.
        oracle: true categories of the prompts, where the caller knows them.

    Raises:
        UnsupportedError: the placeholders of a prompt are not a whole number of images.
    """

    def __init__(
        self,
        method: Method,
        adapter: Adapter,
        reader: PromptReader,
        schedule: Schedule,
        ids: Tensor,
        attention_mask: Tensor | None,
        seen: VisionPass,
        oracle: Sequence[str] | None,
    ) -> None:
        self.method, self.adapter, self.reader, self.schedule = method, adapter, reader, schedule
        self.ids, self.seen = ids, seen
        self.valid = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.visual = (ids == adapter.image_token_id) & self.valid
        self.images = [self._images_of(count) for count in self.visual.sum(dim=1).tolist()]
        self.row_images = self._assign_images(len(seen.pixels))
        self._prompts = [ids[row][self.valid[row]].tolist() for row in range(len(ids))]
        self.categories = list(oracle) if oracle is not None else self._route()
        if self.categories is not None and len(self.categories) != len(ids):
            raise UnsupportedError(f"run.oracle names {len(self.categories)} categories for {len(ids)} prompts")
        self.layouts: list[Layout] = []
        self.look: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self._kept: list[list[Tensor]] = [[] for _ in self.images]
        self._pivots: list[list[Tensor | None]] = [[] for _ in self.images]

    def _images_of(self, placeholders: int) -> int:
        images, rest = divmod(placeholders, self.schedule.visual_tokens)
        if rest:
            raise UnsupportedError(
                f"a prompt holds {placeholders} image placeholders, not a multiple of the "
                f"{self.schedule.visual_tokens} visual tokens of an image; build inputs with the backbone's processor"
            )
        return images

    def _route(self) -> list[str] | None:
        """Categories of the prompts. Those without an image are not pruned, hence not routed."""
        seeing = [row for row, images in enumerate(self.images) if images]
        routed = self.method.route([self.reader.text(self._prompts[row]) for row in seeing])
        if routed is None:
            return None
        known = dict(zip(seeing, routed, strict=True))
        return [known.get(row, "") for row in range(len(self.images))]

    def _assign_images(self, encoded: int) -> list[list[int]]:
        """Which encoded images each row looks at."""
        wanted = sum(self.images)
        if not encoded or wanted % encoded:
            raise UnsupportedError(f"the prompts have placeholders for {wanted} images, but {encoded} were encoded")
        copies, following = wanted // encoded, 0
        assigned: list[list[int]] = []
        for row, images in enumerate(self.images):
            assigned.append(list(range(following, following + images)))
            if row % copies == copies - 1:
                following += images
        return assigned

    def features(self) -> list[Tensor] | None:
        """Projected features of each placeholder image, (tokens, hidden) each, where the method changes them."""
        categories: list[str] | None = None
        if self.categories is not None:
            of_image = {i: c for c, images in zip(self.categories, self.row_images, strict=True) for i in images}
            categories = [of_image[i] for i in range(len(of_image))]
        fused = self.method.fuse(VisionTower(self.adapter, self.seen), categories)
        if fused is None:
            return None
        projected = self.adapter.project(fused)
        return [projected[i] for images in self.row_images for i in images]

    def instruction(self) -> Tensor:
        """(batch, length) bool over the original sequence: the instruction's tokens."""
        marked = torch.zeros_like(self.valid)
        for row, ids in enumerate(self._prompts):
            places = self.valid[row].nonzero().squeeze(1)
            marked[row, places[self.reader.positions(ids)]] = True
        return marked

    def start(self, layer: int, hidden: Tensor, arguments: dict[str, Any]) -> None:
        """Takes the original layout from the arguments of the first decoder layer that the engine watches."""
        batch, length = self.ids.shape
        positions = arguments["position_ids"].expand(batch, -1)
        last = positions.masked_fill(~self.valid, -1).amax(dim=1, keepdim=True)
        index = torch.arange(length, device=hidden.device).expand(batch, -1)
        cos, sin = arguments["position_embeddings"]
        rotary = (cos.expand(batch, -1, -1), sin.expand(batch, -1, -1))
        padded = not bool(self.valid.all())
        mask = arguments.get("attention_mask")
        self.layouts = [Layout(0, index, self.valid, padded, positions, rotary, mask, last + 1)]

    def prune(self, stage: Stage, hidden: Tensor, cache: Any) -> Tensor:
        """Applies one stage to the input of decoder layer ``stage.cut``.

        Args:
            hidden: (batch, length, hidden) in the current layout.

        Returns:
            (batch, shorter length, hidden), or ``hidden`` itself when nothing is to be dropped.
        """
        layout = self.layouts[-1]
        visual = self.visual.gather(1, layout.index) & layout.valid
        keep = layout.valid & ~visual
        pruned = False
        for state, samples in self._groups(stage, hidden, layout, visual):
            budget = stage.keep if self.method.scope == "image" else stage.keep * self.images[samples[0]]
            if budget >= state.visual_tokens:
                self._record(samples, layout, state.visual.reshape(len(samples), -1), None)
                keep[state.sample_index, :] |= visual[state.sample_index, :]
                continue
            selection = _on(hidden.device, self.method.select(state, budget))
            places = state.visual.gather(1, selection.index)
            if selection.features is not None:
                hidden = hidden.index_put((state.row_samples[:, None], places), selection.features.to(hidden.dtype))
            keep = keep.index_put((state.row_samples[:, None], places), torch.ones_like(places, dtype=torch.bool))
            pivots = None if selection.pivots is None else selection.pivots.reshape(len(samples), -1)
            self._record(samples, layout, places.reshape(len(samples), -1), pivots)
            pruned = True
        return self._compact(stage.cut, hidden, keep, layout, cache) if pruned else hidden

    def _groups(
        self, stage: Stage, hidden: Tensor, layout: Layout, visual: Tensor
    ) -> Iterator[tuple[StageState, list[int]]]:
        """Samples with equally many visual tokens are selected together, as one batch."""
        counts = visual.sum(dim=1).tolist()
        groups: dict[tuple[int, int], list[int]] = {}
        for sample, (count, images) in enumerate(zip(counts, self.images, strict=True)):
            if images:
                groups.setdefault((count, images), []).append(sample)
        for (count, images), samples in groups.items():
            index = torch.tensor(samples, device=hidden.device)
            places = visual[index].int().argsort(dim=1, descending=True, stable=True)[:, :count]
            rows_each = images if self.method.scope == "image" else 1
            yield (
                StageState(self, stage, hidden, layout, places.reshape(len(samples) * rows_each, -1), index, rows_each),
                samples,
            )

    def _record(self, samples: list[int], layout: Layout, places: Tensor, pivots: Tensor | None) -> None:
        ordinal = self.visual.long().cumsum(dim=1) - 1
        for row, sample in enumerate(samples):
            self._kept[sample].append(ordinal[sample, layout.index[sample, places[row]]])
            self._pivots[sample].append(None if pivots is None else pivots[row])

    def _compact(self, layer: int, hidden: Tensor, keep: Tensor, layout: Layout, cache: Any) -> Tensor:
        """Gathers what stays, right-aligned, and appends the layout that layers from ``layer`` on see."""
        lengths = keep.sum(dim=1)
        length = int(lengths.max())
        order = keep.int().argsort(dim=1, stable=True)[:, -length:]
        valid = keep.gather(1, order)
        hidden = take(hidden, order)
        padded = bool((lengths != length).any())
        if self.method.positions == "contiguous":
            position_ids = (valid.long().cumsum(dim=1) - 1).clamp(min=0)
            rotary = self.adapter.rotary(hidden, position_ids)
            following = lengths[:, None]
        else:
            position_ids = layout.position_ids.gather(1, order)
            rotary = (take(layout.rotary[0], order), take(layout.rotary[1], order))
            following = layout.next_position
        compact = Layout(layer, layout.index.gather(1, order), valid, padded, position_ids, rotary, None, following)
        self.layouts.append(replace(compact, mask=causal_mask(self.adapter, hidden, compact, cache)))
        return hidden

    def scatter(self, hidden: Tensor) -> Tensor:
        """(batch, shorter, hidden) -> (batch, original length, hidden); dropped and padding rows are zero."""
        layout = self.layouts[-1]
        full = hidden.new_zeros(*self.ids.shape, hidden.shape[-1])
        batch = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(layout.index)
        return full.index_put((batch[layout.valid], layout.index[layout.valid]), hidden[layout.valid])

    def trace(self, kv_bytes: int) -> Trace:
        totals = self.valid.sum(dim=1).tolist()
        visual = self.visual.sum(dim=1).tolist()
        samples = []
        for row, images in enumerate(self.images):
            stages = tuple(
                replace(stage, keep=len(kept))
                for stage, kept in zip(self.schedule.stages, self._kept[row], strict=bool(images))
            )
            counts = Schedule(visual[row], self.schedule.layers, stages)
            samples.append(
                SampleTrace(
                    category=self.categories[row] or None if self.categories is not None else None,
                    kept=tuple(self._kept[row]),
                    pivots=tuple(self._pivots[row]),
                    images=images,
                    visual_entering=counts.entering(),
                    visual_leaving=counts.leaving(),
                    text_tokens=totals[row] - visual[row],
                )
            )
        return Trace(tuple(samples), kv_bytes)


def _on(device: torch.device, selection: Selection) -> Selection:
    pivots = None if selection.pivots is None else selection.pivots.to(device)
    return Selection(selection.index.to(device), selection.features, pivots)
