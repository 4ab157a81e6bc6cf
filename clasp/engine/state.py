"""What a method sees at a stage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clasp.backbones.base import UnsupportedError
from clasp.budget import Stage
from clasp.engine.layout import Layout
from clasp.engine.vision import Medium, VisionRows
from clasp.methods.contract import Queries, Vision
from clasp.ops.attention import attention_rows, masked_mean
from clasp.ops.select import take

if TYPE_CHECKING:
    from clasp.engine.prefill import Prefill


@dataclass(frozen=True)
class Row:
    """Visual tokens that are ranked together.

    Args:
        sample: row of the batch.
        media: images and videos that they come from.
        places: (tokens,) long on the CPU, in the layout.
        tokens: (tokens,) long on the CPU, among all visual tokens of the media together.
        crop: number of the crop that they are, where they are one.
    """

    sample: int
    media: Sequence[Medium]
    places: Tensor
    tokens: Tensor
    crop: int | None = None


class StageState:
    """The engine's :class:`~clasp.methods.contract.State`: rows with equally many visual tokens."""

    def __init__(self, prefill: Prefill, stage: Stage, hidden: Tensor, layout: Layout, rows: Sequence[Row]) -> None:
        self.stage = stage
        self.places = _to(hidden.device, torch.stack([row.places for row in rows]))
        self.visual_tokens = self.places.shape[1]
        self._numbers = torch.tensor([row.sample for row in rows])
        self.samples = _to(hidden.device, self._numbers)
        self._everyone = self._numbers.tolist() == list(range(len(hidden)))
        self._prefill, self._hidden, self._layout, self._rows = prefill, hidden, layout, rows

    @property
    def categories(self) -> list[str] | None:
        named = self._prefill.categories
        return None if named is None else [named[row.sample] for row in self._rows]

    def tokens(self) -> Tensor:
        return self._hidden[self.samples[:, None], self.places]

    def text(self) -> tuple[Tensor, Tensor]:
        words, real = self._words
        return self._hidden[self.samples[:, None], words], real

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        prefill = self._prefill
        assert prefill.embedded is not None
        words, real = self._marked(prefill.instruction[self._numbers])
        places = _to(self._hidden.device, torch.stack([self._origins(row) for row in self._rows]))
        embedded = self._own(prefill.embedded)
        return take(embedded, places), take(embedded, words), real

    def _origins(self, row: Row) -> Tensor:
        """Places in the original sequence of all visual tokens of a row's media, or of its crop."""
        placeholders, media = self._prefill.placeholders, self._prefill.media[row.sample]
        slots = [slot for slot, medium in enumerate(media) if medium in row.media]
        here = torch.isin(placeholders.medium[row.sample], torch.tensor(slots)).nonzero().squeeze(1)
        return here if row.crop is None else here[row.media[0].crops() == row.crop]

    def attention(self, queries: Queries) -> Tensor:
        rows, asked = self._last() if queries == "last" else self._words
        return masked_mean(self._scores(rows), asked)

    def text_attention(self) -> Tensor:
        rows, asked = self._words
        return self._scores(rows).masked_fill(~asked[..., None], 0.0)

    def key_norms(self) -> tuple[Tensor, Tensor]:
        rows, asked = self._words
        _, key, _ = self._looked(self._last()[0])
        norms = key.float().abs().sum(dim=(1, 3))
        return norms.gather(1, self.places), norms.gather(1, rows).masked_fill(~asked, 0.0)

    def normed(self, hidden: Tensor) -> Tensor:
        return self._prefill.adapter.final_norm(hidden)

    def _scores(self, rows: Tensor) -> Tensor:
        """(rows, queries, visual) float32 head-mean attention of the query rows to the row's visual tokens."""
        query, key, scaling = self._looked(rows)
        order = torch.arange(self._layout.length, device=rows.device)
        allowed = (order <= rows[..., None]) & self._own(self._layout.valid)[:, None, :]
        scores = attention_rows(query, key, allowed, scaling)
        return scores.gather(2, self.places[:, None].expand(-1, rows.shape[1], -1))

    def _looked(self, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Queries and keys of the decoder layer that the method looks at."""
        prefill = self._prefill
        hidden, (cos, sin) = prefill.look or (self._hidden, self._layout.rotary)
        layer = self.stage.cut - prefill.method.lookback
        return prefill.adapter.queries_keys(layer, self._own(hidden), (self._own(cos), self._own(sin)), rows)

    def _last(self) -> tuple[Tensor, Tensor]:
        """(rows, 1) place of the last prompt token in the layout, and that it is real."""
        valid = self._layout.host[1][self._numbers]
        last = torch.arange(self._layout.length).masked_fill(~valid, -1).amax(dim=1, keepdim=True)
        places = _to(self._hidden.device, last)
        return places, torch.ones_like(places, dtype=torch.bool)

    @cached_property
    def _words(self) -> tuple[Tensor, Tensor]:
        """(rows, words) places of the instruction's tokens in the layout, and which of them are not padding."""
        index, valid = (part[self._numbers] for part in self._layout.host)
        return self._marked(self._prefill.instruction[self._numbers].gather(1, index) & valid)

    def _marked(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, length) bool on the CPU -> (rows, most) places of the marked, in order, and which entries are real."""
        most = int(marked.sum(dim=1).max())
        places = marked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        return _to(self._hidden.device, places), _to(self._hidden.device, marked.gather(1, places))

    def _own(self, values: Tensor) -> Tensor:
        """(batch, ...) -> (rows, ...), without a copy where the rows are the batch's."""
        return values if self._everyone else values[self.samples]

    def vision(self) -> Vision:
        rows = [(row.media, row.tokens, row.crop) for row in self._rows]
        return VisionRows(self._prefill.adapter, rows)

    def clip_similarity(self, text_tower: str) -> Tensor:
        from clasp.backbones.clip_text import clip_text  # so that its code counts for methods alone that read it

        prefill = self._prefill
        clip = clip_text(text_tower, str(self._hidden.device))
        similarities = []
        for row in self._rows:
            medium = row.media[0]
            if len(row.media) > 1 or not medium.adapter.geometry.cls:
                raise UnsupportedError(
                    "a CLIP text tower needs a CLIP vision tower and one image at a time; leave text_tower out"
                )
            last = medium.adapter.arrange(medium.seen, medium.item, medium.seen.output.last_hidden_state)
            chosen = last[row.tokens.to(last.device)]
            similarities.append(clip.similarity(chosen, prefill.prompt(row.sample)))
        return torch.stack(similarities)

    def seeds(self) -> list[int]:
        seeds = []
        for row in self._rows:
            media = [medium.seed() for medium in row.media]
            plain = len(media) == 1 and row.crop is None
            seeds.append(media[0] if plain else zlib.crc32(repr((media, row.crop)).encode()))
        return seeds


def _to(device: torch.device, values: Tensor) -> Tensor:
    """From the CPU, without waiting for what the device still has to do."""
    return values.to(device, non_blocking=True)
