"""What a method sees at a stage."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clasp.budget import Stage
from clasp.engine.layout import Layout
from clasp.engine.vision import VisionTower
from clasp.methods.base import Queries, Vision
from clasp.ops.attention import attention_rows, masked_mean

if TYPE_CHECKING:
    from clasp.engine.prefill import Prefill


class StageState:
    """The engine's :class:`~clasp.methods.base.State`: one group of rows with equally many visual tokens."""

    def __init__(
        self,
        prefill: Prefill,
        stage: Stage,
        hidden: Tensor,
        layout: Layout,
        visual: Tensor,
        samples: Tensor,
        rows_each: int,
    ) -> None:
        self.stage, self.visual, self.sample_index = stage, visual, samples
        self.row_samples = samples.repeat_interleave(rows_each)
        self.visual_tokens = visual.shape[1]
        self._prefill, self._hidden, self._layout, self._rows_each = prefill, hidden, layout, rows_each

    @property
    def categories(self) -> list[str] | None:
        named = self._prefill.categories
        return None if named is None else [named[sample] for sample in self.row_samples.tolist()]

    def tokens(self) -> Tensor:
        return self._hidden[self.row_samples[:, None], self.visual]

    def attention(self, queries: Queries) -> Tensor:
        prefill, layout, samples = self._prefill, self._layout, self.sample_index
        hidden, rotary = prefill.look or (self._hidden, layout.rotary)
        rows, asked = self._query_rows(queries)
        query, key, scaling = prefill.adapter.queries_keys(
            self.stage.cut - prefill.method.lookback,
            hidden[samples],
            (rotary[0][samples], rotary[1][samples]),
            rows,
        )
        order = torch.arange(layout.length, device=hidden.device)
        allowed = (order <= rows[..., None]) & layout.valid[samples][:, None, :]
        scores = masked_mean(attention_rows(query, key, allowed, scaling), asked)
        return scores.repeat_interleave(self._rows_each, dim=0).gather(1, self.visual)

    def _query_rows(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """(samples, rows) places of the asked query tokens in the layout, and which of them are not padding."""
        layout, samples = self._layout, self.sample_index
        valid = layout.valid[samples]
        if queries == "last":
            places = torch.arange(layout.length, device=valid.device).expand_as(valid)
            last = places.masked_fill(~valid, -1).amax(dim=1, keepdim=True)
            return last, torch.ones_like(last, dtype=torch.bool)
        marked = self._prefill.instruction()[samples].gather(1, layout.index[samples]) & valid
        rows = marked.int().argsort(dim=1, descending=True, stable=True)[:, : int(marked.sum(dim=1).max())]
        return rows, marked.gather(1, rows)

    def vision(self) -> Vision:
        images = [i for sample in self.sample_index.tolist() for i in self._prefill.row_images[sample]]
        index = torch.tensor(images, device=self._hidden.device)
        return VisionTower(self._prefill.adapter, self._prefill.seen, index)

    def seeds(self) -> list[int]:
        pixels = self._prefill.seen.pixels.float().cpu().numpy()
        seeds: list[int] = []
        for sample in self.sample_index.tolist():
            images = [zlib.crc32(pixels[i].tobytes()) for i in self._prefill.row_images[sample]]
            seeds += images if self._rows_each == len(images) else [zlib.crc32(repr(images).encode())]
        return seeds
