"""What a method sees at a stage."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clasp.backbones.base import UnsupportedError
from clasp.budget import Stage
from clasp.engine.decoder_rows import LayerRows
from clasp.engine.layout import Layout
from clasp.engine.precision import Ambient
from clasp.engine.vision import Row, VisionRows, frames_of, grid_of
from clasp.methods.protocols import Frames, Grid, Queries, Vision
from clasp.ops.select import take

if TYPE_CHECKING:
    from clasp.backbones.clip_text import ClipText
    from clasp.engine.prefill import Prefill


class StageState:
    """The engine's :class:`~clasp.methods.protocols.State`: rows with equally many visual tokens."""

    def __init__(self, prefill: Prefill, stage: Stage, hidden: Tensor, layout: Layout, rows: Sequence[Row]) -> None:
        self.stage = stage
        self.places = _to(hidden.device, torch.stack([row.places for row in rows]))
        self.visual_tokens = self.places.shape[1]
        self.layer = stage.cut
        self.depth = prefill.adapter.geometry.layers
        self.ambient = Ambient(hidden.device)
        self.prefill, self.layout = prefill, layout
        self._numbers = torch.tensor([row.sample for row in rows])
        self.samples = _to(hidden.device, self._numbers)
        self._everyone = self._numbers.tolist() == list(range(len(hidden)))
        self._hidden, self._rows = hidden, rows
        self._layers: dict[int, LayerRows] = {}
        self._located: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def categories(self) -> list[str] | None:
        named = self.prefill.categories
        return None if named is None else [named[row.sample] for row in self._rows]

    @property
    def scratch(self) -> list[dict[Any, Any]]:
        return [self.prefill.scratch_of(row.sample, row.media, row.crop) for row in self._rows]

    def decoder(self, layer: int | None = None) -> LayerRows:
        if layer is None:
            layer = self.layer - self.prefill.method.lookback
        if layer not in self._layers:
            self._layers[layer] = LayerRows(self, layer, *self._entered(layer))
        return self._layers[layer]

    def _entered(self, layer: int) -> tuple[Tensor, Layout]:
        """The input of a decoder layer, and its layout."""
        if layer == self.layer:
            return self._hidden, self.layout
        held = self.prefill.held
        if layer not in held:
            raise ValueError(
                f"the input of decoder layer {layer} is not available before layer {self.layer}; name earlier "
                f"layers in the method's decoder_states (held: {', '.join(map(str, sorted(held))) or 'none'})"
            )
        return held[layer]

    def grid(self) -> Grid:
        return grid_of(self._rows, self._hidden.device)

    def frames(self) -> Frames:
        return frames_of(self._rows, self._hidden.device)

    def tokens(self) -> Tensor:
        return self._hidden[self.samples[:, None], self.places]

    def text(self) -> tuple[Tensor, Tensor]:
        words, real = self.locate("instruction")
        return self._hidden[self.samples[:, None], words], real

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        prefill = self.prefill
        assert prefill.embedded is not None
        words, real = self._marked(prefill.instruction[self._numbers])
        places = _to(self._hidden.device, torch.stack([self._origins(row) for row in self._rows]))
        embedded = self.own(prefill.embedded)
        return take(embedded, places), take(embedded, words), real

    def _origins(self, row: Row) -> Tensor:
        """Places in the original sequence of all visual tokens of a row's media, or of its crop."""
        here = self.prefill.origins(row.sample, row.media)
        return here if row.crop is None else here[row.media[0].crops() == row.crop]

    def attention(self, queries: Queries) -> Tensor:
        return self.decoder().attention(queries)

    def text_attention(self) -> Tensor:
        return self.decoder().attention_rows("instruction")

    def key_norms(self) -> tuple[Tensor, Tensor]:
        layer, real = self.decoder(), self.locate("instruction")[1]
        return layer.key_norms("visual"), layer.key_norms("instruction").masked_fill(~real, 0.0)

    def normed(self, hidden: Tensor) -> Tensor:
        with self.ambient():
            return self.prefill.adapter.final_norm(hidden)

    def locate(self, of: Queries) -> tuple[Tensor, Tensor]:
        """(rows, tokens) places of these tokens in the state's layout, and which of them are not padding."""
        if of not in self._located:
            self._located[of] = self._locate(of)
        return self._located[of]

    def _locate(self, of: Queries) -> tuple[Tensor, Tensor]:
        if of == "visual":
            return self.places, torch.ones_like(self.places, dtype=torch.bool)
        index, valid = (part[self._numbers] for part in self.layout.host)
        if of == "prompt":
            return self._marked(valid)
        if of == "instruction":
            return self._marked(self.prefill.instruction[self._numbers].gather(1, index) & valid)
        order = torch.arange(self.layout.length)
        if of in ("text", "start"):
            visual = self.prefill.placeholders.visual[self._numbers].gather(1, index)
            behind = torch.stack([order > row.places.max() for row in self._rows])
            return self._marked(valid & (behind & ~visual if of == "text" else ~behind))
        if of == "last":
            last = _to(self._hidden.device, order.masked_fill(~valid, -1).amax(dim=1, keepdim=True))
            return last, torch.ones_like(last, dtype=torch.bool)
        raise ValueError(f"unknown tokens {of!r}; use one of {', '.join(get_args(Queries))}")

    def _marked(self, marked: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, length) bool on the CPU -> (rows, most) places of the marked, in order, and which entries are real."""
        most = int(marked.sum(dim=1).max())
        places = marked.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        return _to(self._hidden.device, places), _to(self._hidden.device, marked.gather(1, places))

    def own(self, values: Tensor) -> Tensor:
        """(batch, ...) -> (rows, ...), without a copy where the rows are the batch's."""
        return values if self._everyone else values[self.samples]

    def vision(self) -> Vision:
        return VisionRows(self.prefill.adapter, self._rows, self.ambient)

    def clip_similarity(self, text_tower: str | None, without: Sequence[str] = ()) -> Tensor | None:
        if (clip := self._clip(text_tower)) is None:
            return None
        similarities = []
        for row in self._rows:
            medium = row.media[0]
            features = medium.hidden_state(medium.adapter.geometry.feature_layer)
            text = self.prefill.prompt(row.sample)
            for passage in without:
                text = text.replace(passage, "")
            with self.ambient():
                similarities.append(clip.similarity(features[row.tokens.to(features.device)], text))
        return torch.stack(similarities)

    def clip_words(self, text_tower: str | None) -> tuple[Tensor, Tensor] | None:
        if (clip := self._clip(text_tower)) is None:
            return None
        with self.ambient():
            known = {row.sample: clip.words(self.prefill.prompt(row.sample)) for row in self._rows}
        words = [known[row.sample] for row in self._rows]
        real = [torch.ones(len(own), dtype=torch.bool, device=own.device) for own in words]
        return pad_sequence(words, batch_first=True), pad_sequence(real, batch_first=True)

    def clip_patches(self, text_tower: str | None, features: Tensor) -> Tensor:
        clip = self._clip(text_tower)
        assert clip is not None, "clip_words says whether there is a CLIP model"
        with self.ambient():
            return clip.plain_patches(features)

    def _clip(self, text_tower: str | None) -> ClipText | None:
        """The CLIP model named, or the one that the backbone brings; None where there is neither.

        Raises:
            UnsupportedError: the backbone's vision tower is not CLIP's, or a row has several media.
        """
        adapter = self.prefill.adapter
        source = text_tower or adapter.text_tower
        if source is None:
            return None
        from clasp.backbones.clip_text import clip_text  # here, so that it is code only of methods that call this

        geometry = adapter.geometry
        if not geometry.cls or geometry.joined_patches or any(len(row.media) > 1 for row in self._rows):
            raise UnsupportedError(
                "a CLIP text tower needs a CLIP vision tower and one image at a time; leave text_tower out"
            )
        return clip_text(source, str(self._hidden.device))

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
