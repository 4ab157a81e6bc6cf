"""States with planted values: what a method does with them is all that is under test.

Every value is drawn once from a seed, another one for every layer, and ``reads`` records what was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clasp.backbones import geometry
from clasp.budget import Stage
from clasp.methods.protocols import Frames, Grid, Patches, Queries, Selection


class FakeVision:
    """:class:`clasp.methods.protocols.Vision`; tests may overwrite its values."""

    def __init__(self, rows: int, tokens: int, seed: int = 0, *, feature_layer: int = 3, has_cls: bool = True) -> None:
        draw, dim, head_dim, heads = torch.Generator().manual_seed(seed + 1000), 4, 5, 3
        self.feature_layer, self.last_layer, self.has_cls = feature_layer, feature_layer, has_cls
        self.states = torch.randn(feature_layer + 2, rows, tokens, dim, generator=draw)
        self.attentions = torch.rand(feature_layer + 2, rows, tokens, generator=draw)
        self.whole_key = torch.randn(feature_layer + 2, rows, heads, tokens, head_dim, generator=draw)
        self.cls = torch.randn(feature_layer + 2, rows, dim, generator=draw)
        self.weight = torch.randn(dim, 6, generator=draw)
        self.receives = torch.rand(feature_layer + 2, rows, tokens, generator=draw) / tokens
        self.stays = torch.ones(rows, tokens, dtype=torch.bool)
        self.order = torch.arange(tokens).repeat(rows, 1)
        self.merged_to: Tensor | None = None  # (rows,) what is left after merging, where stages dropped some since
        self.reads: set[int] = set()

    def _read(self, values: Tensor, layer: int) -> Tensor:
        self.reads.add(layer)
        return values[layer]

    def hidden_state(self, index: int) -> Tensor:
        return self._read(self.states, index)

    def attention(self, layer: int) -> Tensor:
        return self._read(self.attentions, layer)

    def received(self, layer: int, *, others: bool = False) -> Tensor:
        return self._read(self.receives.flip(2) if others else self.receives, layer)

    def cls_state(self, index: int) -> Tensor:
        assert self.has_cls, "there is no CLS token"
        return self._read(self.cls, index)

    def keys(self, layer: int) -> Tensor:
        return self.heads(layer, "k").mean(dim=1)

    def heads(self, layer: int, kind: str) -> Tensor:
        assert kind == "k"
        return self._read(self.whole_key, layer)

    def project(self, features: Tensor) -> Tensor:
        return torch.tanh(features.float() @ self.weight)  # not linear, as a projector is not

    def representatives(self) -> Tensor:
        return self.stays

    def groups(self) -> Tensor:
        return self.stays.sum(dim=1) if self.merged_to is None else self.merged_to

    def sequence(self) -> Tensor:
        return self.order


LLAVA = geometry("llava-hf/llava-1.5-7b-hf")
"""Of images of 576 visual tokens, with CLS, 32 decoder layers."""
START = 3
"""Tokens of the system prompt before a row's visual ones."""


class FakeDecoder:
    """:class:`clasp.methods.protocols.Decoder`: each row is a system prompt, its visual tokens and ``words`` real
    tokens of text, padded on the right with values that must not be read."""

    def __init__(self, rows: int, visual: int, words: Sequence[int], seed: int) -> None:
        draw = torch.Generator().manual_seed(seed + 4000)
        lengths, longest = torch.tensor(list(words)), max(words)
        self.layer, heads, head_dim = 0, {"q": 4, "k": 2, "v": 2}, 6
        length = START + visual + longest
        self.whole = {
            (kind, rotated): torch.randn(rows, count, length, head_dim, generator=draw)
            for kind, count in heads.items()
            for rotated in (True, False)
        }
        self.states = torch.randn(rows, length, 6, generator=draw)
        self.there = torch.arange(length)[None] < (START + visual + lengths)[:, None]
        self.cosines, self.sines = torch.rand(2, rows, visual, head_dim, generator=draw)
        self._parts = {
            "visual": slice(START, START + visual),
            "start": slice(START + visual),
            "text": slice(START + visual, length),
            "prompt": slice(length),
        }

    def real(self, of: Queries) -> Tensor:
        return self.there[:, self._parts[of]]

    def hidden(self, of: Queries = "visual") -> Tensor:
        return self.states[:, self._parts[of]]

    def heads(self, kind: str, of: Queries = "visual", *, rotated: bool = True) -> Tensor:
        return self.whole[kind, rotated and kind != "v"][:, :, self._parts[of]]

    def rotary(self) -> tuple[Tensor, Tensor]:
        return self.cosines, self.sines

    def scaling(self) -> float:
        return 0.3


class FakeState:
    """:class:`clasp.methods.protocols.State` at one stage; the planted values may be overwritten.

    Args:
        original: visual tokens that entered the decoder, where earlier stages dropped some.
        words: instruction tokens of each row; shorter rows are padded on the right.
    """

    def __init__(
        self,
        rows: int,
        visual: int,
        seed: int = 0,
        *,
        original: int | None = None,
        words: Sequence[int] | None = None,
        categories: list[str] | None = None,
        stage: Stage | None = None,
        has_cls: bool = True,
        feature_layer: int = 3,
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        lengths = torch.tensor(list(words) if words is not None else [3 + row % 3 for row in range(rows)])
        longest = int(lengths.max())
        self.stage = stage or Stage(0, 1)
        self.visual_tokens, self.categories = visual, categories
        self.real = torch.arange(longest)[None] < lengths[:, None]
        self.visual_hidden = torch.randn(rows, visual, 6, generator=draw)
        self.word_hidden = torch.randn(rows, longest, 6, generator=draw) * self.real[..., None]
        self.original_visual = torch.randn(rows, original or visual, 6, generator=draw)
        self.original_words = torch.randn(rows, longest, 6, generator=draw) * self.real[..., None]
        scores = torch.rand(rows, longest, visual, generator=draw)
        self.word_attention = 0.5 * scores / scores.sum(dim=-1, keepdim=True) * self.real[..., None]
        self.last_attention = torch.rand(rows, visual, generator=draw) / visual
        self.norms = 10.0 * torch.rand(rows, visual, generator=draw), 10.0 * torch.rand(rows, longest, generator=draw)
        self.gain = 0.5 + torch.rand(6, generator=draw)
        self.similarity = 2.0 * torch.rand(rows, visual, generator=draw) - 1.0
        self.text_towers: list[str] = []
        self.shape = (1, visual)
        self.clip: tuple[int, int] | None = None  # frames, and tokens of each; further tokens behind them are of none
        self.places = torch.arange(visual)  # in the clip, where stages dropped some
        self.depth = 12
        self.scratch: list[dict[str, object]] = [{} for _ in range(rows)]
        self.tower = FakeVision(rows, visual, seed, has_cls=has_cls, feature_layer=feature_layer)
        self.looked_at = FakeDecoder(rows, visual, lengths.tolist(), seed)
        self.clip_weight = torch.randn(self.tower.states.shape[-1], 5, generator=draw)
        self.clip_text = torch.nn.functional.normalize(torch.randn(rows, longest + 2, 5, generator=draw), dim=-1)

    def decoder(self, layer: int | None = None) -> FakeDecoder:
        return self.looked_at

    def clip_words(self, text_tower: str | None) -> tuple[Tensor, Tensor] | None:
        if text_tower is None:
            return None
        self.text_towers.append(text_tower)
        return self.clip_text, torch.nn.functional.pad(self.real, (2, 0), value=True)

    def clip_patches(self, text_tower: str | None, features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features.float() @ self.clip_weight, dim=-1)

    def tokens(self) -> Tensor:
        return self.visual_hidden

    def text(self) -> tuple[Tensor, Tensor]:
        return self.word_hidden, self.real

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.original_visual, self.original_words, self.real

    def attention(self, queries: Queries) -> Tensor:
        if queries == "last":
            return self.last_attention
        return self.word_attention.sum(dim=1) / self.real.sum(dim=1, keepdim=True)

    def text_attention(self) -> Tensor:
        return self.word_attention

    def key_norms(self) -> tuple[Tensor, Tensor]:
        return self.norms

    def normed(self, hidden: Tensor) -> Tensor:
        scale = hidden.float().square().mean(dim=-1, keepdim=True).add(1e-6).rsqrt()
        return hidden * scale * self.gain

    def clip_similarity(self, text_tower: str | None, without: Sequence[str] = ()) -> Tensor | None:
        """Of a backbone that brings no CLIP model."""
        if text_tower is None:
            return None
        self.text_towers.append(text_tower)
        self.without = tuple(without)
        return self.similarity

    def vision(self) -> FakeVision:
        return self.tower

    def grid(self) -> Grid:
        high, wide = self.shape
        places = torch.arange(self.visual_tokens) - (self.visual_tokens - high * wide)  # the first have none
        rows, columns = (torch.where(places < 0, -1, part) for part in (places // wide, places % wide))
        count = len(self.visual_hidden)
        parts = [part.expand(count, -1) for part in (torch.where(places < 0, -1, 0), rows, columns)]
        return Grid(*parts, [[self.shape]] * count)

    def frames(self) -> Frames:
        count, size = self.clip or (1, self.visual_tokens)
        places = self.places.expand(len(self.visual_hidden), -1)
        nowhere = places >= count * size
        return Frames(count, size, (places // size).masked_fill(nowhere, -1), (places % size).masked_fill(nowhere, -1))

    def seeds(self) -> list[int]:
        return list(range(100, 100 + len(self.visual_hidden)))


def rows_of(selection: Selection) -> list[list[int]]:
    """The kept places of each row, without padding."""
    valid = torch.ones_like(selection.index, dtype=torch.bool) if selection.valid is None else selection.valid
    return [row[real].tolist() for row, real in zip(selection.index, valid, strict=True)]


class FakeCrops:
    """:class:`clasp.methods.protocols.Crops`; which crop covers a token of the first one is drawn, too."""

    def __init__(self, sizes: Sequence[int], seed: int = 0, *, whole: bool = True) -> None:
        draw = torch.Generator().manual_seed(seed + 2000)
        self.sizes, self.whole = tuple(sizes), whole
        self.attentions = torch.rand(8, sizes[0], generator=draw)
        self._covered = torch.randint(1, max(2, len(sizes)), (sizes[0],), generator=draw)
        self.reads: set[int] = set()

    def attention(self, layer: int) -> Tensor:
        self.reads.add(layer)
        return self.attentions[layer]

    def covering(self) -> Tensor:
        assert self.whole, "no crop shows the whole image"
        return self._covered


def fake_patches(
    crops: int, grid: tuple[int, int], seed: int = 0, *, keep: int = 1, left: int = 1, padded: int = 0, cls: bool = True
) -> Patches:
    """:class:`clasp.methods.protocols.Patches` of unmerged patches, the last ``padded`` of each crop being padding;
    ``left``: merging layers, this one included."""
    draw = torch.Generator().manual_seed(seed + 3000)
    patches = grid[0] * grid[1]
    sizes = torch.ones(crops, patches, dtype=torch.long)
    sizes[:, patches - padded :] = 0
    return Patches(
        hidden=torch.randn(crops, patches, 4, generator=draw),
        keys=torch.randn(crops, patches, 5, generator=draw),
        sizes=sizes,
        places=torch.arange(patches).expand(crops, -1),
        grid=grid,
        keep=keep,
        remaining=left,
        heads={kind: torch.randn(crops, 3, patches + cls, 5, generator=draw) for kind in ("q", "k", "v")}.__getitem__,
        scaling=0.4,
        cls=cls,
        scratch={},
    )
