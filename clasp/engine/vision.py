"""What the vision tower computed for the images and videos of a prefill."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError, VisionPass
from clasp.engine.precision import Ambient
from clasp.methods.protocols import Frames, Grid, Projection

if TYPE_CHECKING:
    from clasp.engine.prefill import Prefill


class Medium:
    """One image or video of a prefill, its ViT values arranged by visual token (each computed once).

    Args:
        vision_pass: the encoder call that it came from.
        item: its number in that pass.
        tokens: its visual tokens.
    """

    def __init__(self, adapter: Adapter, vision_pass: VisionPass, item: int, tokens: int) -> None:
        self.adapter, self.vision_pass, self.item, self.tokens = adapter, vision_pass, item, tokens
        self._ambient = Ambient(vision_pass.output.last_hidden_state.device)

    def state(self, index: int) -> Tensor:
        """ViT hidden state in tower layout, of all media of the pass."""
        if index not in self.vision_pass.states:
            raise ValueError(f"ViT hidden state {index} was not asked for; name it in the method's vision_states")
        return self.vision_pass.states[index]

    def hidden_state(self, index: int) -> Tensor:
        """(tokens, vision_dim)."""
        return self._once(
            ("hidden", index), lambda: self.adapter.arrange(self.vision_pass, self.item, self.state(index), joined=True)
        )

    def keys(self, layer: int) -> Tensor:
        """(tokens, head_dim)."""
        self.state(layer)
        return self._once(("keys", layer), lambda: self._arranged(self.adapter.vision_keys, "keys", layer))

    def attention(self, layer: int) -> Tensor:
        """(tokens,) float32."""
        self.state(layer)
        return self._once(
            ("attention", layer), lambda: self._arranged(self.adapter.vision_attention, "attention", layer)[:, 0]
        )

    def attention_heads(self, layer: int) -> Tensor:
        """(heads, tokens) float32."""
        self.state(layer)
        arranged = self._arranged(self.adapter.vision_attention_heads, "attention heads", layer)
        return arranged.transpose(0, 1)

    def received(self, layer: int, others: bool) -> Tensor:
        """(tokens,) float32."""
        self.state(layer)
        name = "received of others" if others else "received"
        compute = partial(self.adapter.vision_received, others=True) if others else self.adapter.vision_received
        return self._once((name, layer), lambda: self._arranged(compute, name, layer)[:, 0])

    def heads(self, layer: int, kind: Projection) -> Tensor:
        """(heads, tokens, head_dim)."""
        arranged = self.adapter.arrange(self.vision_pass, self.item, self._projected(layer, kind))
        return arranged.unflatten(-1, (self.adapter.vision_head_count, -1)).transpose(0, 1)

    def cls_heads(self, layer: int, kind: Projection) -> Tensor:
        """(crops, heads, head_dim)."""
        states = self.adapter.cls_states(self.vision_pass, self.item, self._projected(layer, kind))
        return states.unflatten(-1, (self.adapter.vision_head_count, -1))

    def _projected(self, layer: int, kind: Projection) -> Tensor:
        """Queries, keys or values of all heads, in tower layout, of all media of the pass."""
        self.state(layer)
        memo = self.vision_pass.memo
        if (kind, layer) not in memo:
            with self._ambient():
                memo[kind, layer] = self.adapter.vision_heads(self.vision_pass, layer, kind)
        return memo[kind, layer]

    def grid(self) -> tuple[Tensor, list[tuple[int, int]]]:
        """(tokens, 3) long on the CPU: frame, row and column of each token, -1 for none; and the frames' sizes."""
        return self._once("grid", self._grid)

    def _grid(self) -> tuple[Tensor, list[tuple[int, int]]]:
        frames = self.adapter.grid(self.vision_pass, self.item)
        known = torch.full((self.tokens, 3), -1)
        for number, places in enumerate(frames):
            rows, columns = places.shape
            known[places, 0] = number
            known[places, 1] = torch.arange(rows)[:, None]
            known[places, 2] = torch.arange(columns)
        return known, [(len(places), places.shape[1]) for places in frames]

    def cls_states(self, index: int) -> Tensor:
        """(crops, vision_dim)."""
        return self.adapter.cls_features(self.vision_pass, self.item, self.state(index))

    def crops(self) -> Tensor:
        """(tokens,) long on the CPU: each token's crop, -1 for none."""
        return self._once("crops", lambda: self.adapter.crops(self.vision_pass, self.item).cpu())

    def crop_total(self) -> int:
        """Crops that the ViT saw, also those of which padding left no token."""
        return self.adapter.crop_total(self.vision_pass, self.item)

    def frame_count(self) -> int:
        """Frames of a video; an image is one."""
        return self.crop_total() if self.vision_pass.modality == "video" else 1

    def frames(self) -> Tensor:
        """(tokens, 2) long on the CPU: frame, and place in it, of each token; -1 for none."""
        return self._once("frames", self._frames)

    def _frames(self) -> Tensor:
        if self.vision_pass.modality == "image":
            return torch.stack([torch.zeros(self.tokens, dtype=torch.long), torch.arange(self.tokens)], dim=1)
        frame = self.crops()
        place = torch.full_like(frame, -1)
        for number in range(self.frame_count()):
            here = frame == number
            place[here] = torch.arange(int(here.sum()))
        return torch.stack([frame, place], dim=1)

    def representatives(self) -> Tensor:
        """(tokens,) bool: the first token of each group that was merged inside the ViT."""
        if self.vision_pass.merged is None:
            return torch.ones(self.tokens, dtype=torch.bool, device=self.vision_pass.output.last_hidden_state.device)
        return self._once("representatives", self._representatives)

    def sequence(self) -> Tensor:
        """(tokens,) long: by rising value, the order in which the ViT went on."""
        if self.vision_pass.merged is None or self.crop_total() > 1:
            return torch.arange(self.tokens, device=self.vision_pass.output.last_hidden_state.device)
        return self._once("labels", self._labels)

    def _representatives(self) -> Tensor:
        labels = self._once("labels", self._labels)
        order = labels.argsort(stable=True)
        ordered = labels[order]
        first = (ordered.diff(prepend=labels.new_zeros(1)) != 0) & (ordered != 0)  # newlines, 0, stand for no patch
        return torch.zeros_like(first).scatter(0, order, first)

    def _labels(self) -> Tensor:
        """(tokens,) long: a number for each group that was merged, in the ViT's order; 0 for newlines and for what was
        dropped."""
        merged, cls = self.vision_pass.merged, int(self.adapter.geometry.cls)
        assert merged is not None
        crops, patches = merged.shape
        numbers = torch.arange(1, crops * patches + 1)
        self._refuse_mixing(torch.cat([torch.zeros(crops, cls), numbers.view(crops, patches)], dim=1))
        # a number of its own for every group of every crop, so that the same place in two crops is not one group
        groups = merged + torch.arange(0, crops * patches, patches, device=merged.device)[:, None] + 1
        groups = groups.masked_fill(merged < 0, 0)
        values = torch.cat([groups.new_zeros(crops, cls), groups], dim=1)[..., None].double()
        if cls and self.adapter.blocks(self.vision_pass, self.item, values).shape[1] == patches + 1:
            values[:, 0, 0] = -1.0 - torch.arange(crops, device=values.device)  # CLS is a visual token of its own
        return self.adapter.arrange(self.vision_pass, self.item, values)[:, 0].long()

    def _refuse_mixing(self, numbers: Tensor) -> None:
        """Raises UnsupportedError where some visual token mixes patches; ``numbers`` (crops, sequence), on the CPU."""
        arranged = self.adapter.arrange(self.vision_pass, self.item, numbers[..., None].double())
        if bool((arranged != arranged.round()).any()):
            raise UnsupportedError(
                "this backbone interpolates between patches of an image of this size, so that patches merged inside "
                "the vision tower cannot be distinguished; use another method"
            )

    def seed(self) -> int:
        """From the pixels alone."""
        return self._once(
            "seed", lambda: zlib.crc32(self.adapter.pixels(self.vision_pass, self.item).float().cpu().numpy().tobytes())
        )

    def _arranged(self, compute: Callable[[VisionPass, int], Tensor], name: str, layer: int) -> Tensor:
        memo = self.vision_pass.memo
        if (name, layer) not in memo:
            with self._ambient():
                memo[name, layer] = compute(self.vision_pass, layer)
        return self.adapter.arrange(self.vision_pass, self.item, memo[name, layer])

    def _once(self, key: object, compute: Callable[[], Any]) -> Any:
        memo = self.vision_pass.memo
        if (self.item, key) not in memo:
            memo[self.item, key] = compute()
        return memo[self.item, key]


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


class FusionView:
    """One medium's ViT states by crop (implements :class:`clasp.methods.protocols.Tower`)."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self.feature_layer = medium.adapter.geometry.feature_layer

    def hidden_state(self, index: int) -> Tensor:
        medium = self._medium
        return medium.adapter.blocks(medium.vision_pass, medium.item, medium.state(index))


class CropsView:
    """One medium's crops (implements :class:`clasp.methods.protocols.Crops`).

    Args:
        row: all tokens of the medium at this stage.
        crops: per crop, which of the row's tokens it has.
    """

    def __init__(self, prefill: Prefill, row: Row, crops: Sequence[Tensor]) -> None:
        self._prefill, self._row, self._crops = prefill, row, crops
        self._medium = medium = row.media[0]
        self.sizes: Sequence[int] = [len(crop) for crop in crops]
        self.whole = medium.adapter.whole_first(medium.vision_pass, medium.item)
        self.video = medium.vision_pass.modality == "video"

    @property
    def scratch(self) -> dict[Any, Any]:
        return self._prefill.scratch_of(self._row.sample, self._row.media)

    def attention(self, layer: int) -> Tensor:
        attention = self._medium.attention(layer)
        return attention[_on(attention, (self._medium.crops() == 0).nonzero().squeeze(1))]

    def attentions(self, layer: int) -> list[Tensor]:
        return self._each(self._medium.attention(layer)[_on(self._medium.attention(layer), self._row.tokens)])

    def features(self) -> list[Tensor]:
        embedded = self._embedded
        origins = self._prefill.origins(self._row.sample, self._row.media)[self._row.tokens]
        return self._each(embedded[_on(embedded, origins)])

    def text(self) -> Tensor:
        words = self._prefill.instruction[self._row.sample].nonzero().squeeze(1)
        return self._embedded[_on(self._embedded, words)]

    def cls_states(self, index: int) -> Tensor:
        return self._medium.cls_states(index)

    def covering(self) -> Tensor:
        return self._medium.adapter.covering(self._medium.vision_pass, self._medium.item)

    @property
    def _embedded(self) -> Tensor:
        """(length, hidden) what entered the decoder."""
        assert self._prefill.embedded is not None
        return self._prefill.embedded[self._row.sample]

    def _each(self, values: Tensor) -> list[Tensor]:
        """Values of the row's tokens, by crop."""
        return [values[_on(values, crop)] for crop in self._crops]


def grid_of(rows: Sequence[Row], device: torch.device) -> Grid:
    """Where the tokens of some rows lie."""
    places, sizes = [], []
    for row in rows:
        joined: list[Tensor] = []
        frames: list[tuple[int, int]] = []
        for medium in row.media:
            known, own = medium.grid()
            known = known.clone()
            known[:, 0] += len(frames) * (known[:, 0] >= 0)
            joined.append(known)
            frames += own
        here = torch.cat(joined)
        if row.crop is not None:  # within the crop, as if there were no other
            mine = here[row.media[0].crops() == row.crop]
            first, last = mine[mine[:, 0] >= 0].amin(dim=0), mine.amax(dim=0)
            here = torch.where(here >= 0, here - first, here)
            frames = [(int(last[1] - first[1]) + 1, int(last[2] - first[2]) + 1)]
        places.append(here[row.tokens])
        sizes.append(frames)
    frame, line, column = torch.stack(places).to(device, non_blocking=True).unbind(-1)
    return Grid(frame, line, column, sizes)


def frames_of(rows: Sequence[Row], device: torch.device) -> Frames:
    """The tokens of some rows, of equally many frames each, by frame."""
    if any(len(row.media) > 1 or row.crop is not None for row in rows):
        raise ValueError("frames are those of one video; set the method's scope to 'image'")
    known = [row.media[0].frames() for row in rows]
    count, size = rows[0].media[0].frame_count(), int(known[0][:, 1].max()) + 1
    places = torch.stack([own[row.tokens] for own, row in zip(known, rows, strict=True)])
    frame, place = places.to(device, non_blocking=True).unbind(-1)
    return Frames(count, size, frame, place)


def _on(values: Tensor, index: Tensor) -> Tensor:
    """An index from the CPU to where the values are, without a wait."""
    return index.to(values.device, non_blocking=True)


class VisionRows:
    """The values of some rows' tokens (implements :class:`clasp.methods.protocols.Vision`)."""

    def __init__(self, adapter: Adapter, rows: Sequence[Row], ambient: Ambient) -> None:
        self._adapter, self._rows, self._ambient = adapter, rows, ambient
        self.feature_layer = adapter.geometry.feature_layer
        self.last_layer = min(self.feature_layer, adapter.geometry.vision_layers - 1)
        self.has_cls = adapter.geometry.cls

    def hidden_state(self, index: int) -> Tensor:
        return self._stack(lambda medium: medium.hidden_state(index))

    def attention(self, layer: int) -> Tensor:
        return self._stack(lambda medium: medium.attention(layer))

    def attention_heads(self, layer: int) -> Tensor:
        return self._stack(lambda medium: medium.attention_heads(layer), dim=1)

    def received(self, layer: int, *, others: bool = False) -> Tensor:
        return self._stack(lambda medium: medium.received(layer, others))

    def keys(self, layer: int) -> Tensor:
        return self._stack(lambda medium: medium.keys(layer))

    def heads(self, layer: int, kind: Projection) -> Tensor:
        return self._stack(lambda medium: medium.heads(layer, kind), dim=1)

    def cls_heads(self, layer: int, kind: Projection) -> Tensor:
        return self._of_crops("cls_heads", lambda medium: medium.cls_heads(layer, kind))

    def representatives(self) -> Tensor:
        return self._stack(lambda medium: medium.representatives())

    def groups(self) -> Tensor:
        return torch.stack([sum(medium.representatives().sum() for medium in row.media) for row in self._rows])

    def sequence(self) -> Tensor:
        sequences = []
        for row in self._rows:
            before, values = 0, []
            for medium in row.media:  # one medium after the other
                values.append(medium.sequence() + before)
                before += medium.crop_total() * medium.tokens + 1
            joined = torch.cat(values)
            sequences.append(joined[row.tokens.to(joined.device)])
        return torch.stack(sequences)

    def cls_state(self, index: int) -> Tensor:
        return self._of_crops("cls_state", lambda medium: medium.cls_states(index))

    def _of_crops(self, name: str, value: Callable[[Medium], Tensor]) -> Tensor:
        """Each row's crop's own of (crops, ...) values."""
        states = []
        for row in self._rows:
            if row.crop is None:
                raise ValueError(f"{name} has a meaning for single crops only; set the method's scope to 'crop'")
            states.append(value(row.media[0])[row.crop])
        return torch.stack(states)

    def project(self, features: Tensor) -> Tensor:
        with self._ambient():
            return self._adapter.project(features)

    def _stack(self, value: Callable[[Medium], Tensor], dim: int = 0) -> Tensor:
        """Each row's tokens' own of values whose ``dim`` runs over a medium's tokens."""
        taken = []
        for row in self._rows:
            values = [value(medium) for medium in row.media]
            joined = values[0] if len(values) == 1 else torch.cat(values, dim=dim)
            places = row.tokens.to(joined.device)
            taken.append(joined.index_select(dim, places) if dim else joined[places])
        return torch.stack(taken)
