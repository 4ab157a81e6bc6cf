"""What the vision tower computed for the images and videos of a prefill."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clasp.backbones.base import Adapter, UnsupportedError, VisionPass
from clasp.methods.contract import Projection


class Medium:
    """One image or video of a prefill, its ViT values arranged by visual token (each computed once).

    Args:
        seen: the pass that encoded it.
        item: its number in that pass.
        tokens: its visual tokens.
    """

    def __init__(self, adapter: Adapter, seen: VisionPass, item: int, tokens: int) -> None:
        self.adapter, self.seen, self.item, self.tokens = adapter, seen, item, tokens

    def state(self, index: int) -> Tensor:
        """ViT hidden state in tower layout, of all media of the pass."""
        if index not in self.seen.states:
            raise ValueError(f"ViT hidden state {index} was not asked for; name it in the method's vision_states")
        return self.seen.states[index]

    def hidden_state(self, index: int) -> Tensor:
        """(tokens, vision_dim)."""
        return self._once(
            ("hidden", index), lambda: self.adapter.arrange(self.seen, self.item, self.state(index), joined=True)
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

    def heads(self, layer: int, kind: Projection) -> Tensor:
        """(heads, tokens, head_dim)."""
        arranged = self.adapter.arrange(self.seen, self.item, self._projected(layer, kind))
        return arranged.unflatten(-1, (self.adapter.vision_head_count, -1)).transpose(0, 1)

    def _projected(self, layer: int, kind: Projection) -> Tensor:
        """Queries, keys or values of all heads, in tower layout, of all media of the pass."""
        self.state(layer)
        memo = self.seen.memo
        if (kind, layer) not in memo:
            memo[kind, layer] = self.adapter.vision_heads(self.seen, layer, kind)
        return memo[kind, layer]

    def cls_states(self, index: int) -> Tensor:
        """(crops, vision_dim)."""
        return self.adapter.cls_states(self.seen, self.item, self.state(index))

    def crops(self) -> Tensor:
        """(tokens,) long on the CPU: each token's crop, -1 for none."""
        return self._once("crops", lambda: self.adapter.crops(self.seen, self.item).cpu())

    def crop_total(self) -> int:
        """Crops that the ViT saw, also those of which padding left no token."""
        return self.adapter.crop_total(self.seen, self.item)

    def representatives(self) -> Tensor:
        """(tokens,) bool: the first token of each group that was merged inside the ViT."""
        if self.seen.merged is None:
            return torch.ones(self.tokens, dtype=torch.bool, device=self.seen.output.last_hidden_state.device)
        return self._once("representatives", self._representatives)

    def sequence(self) -> Tensor:
        """(tokens,) long: by rising value, the order in which the ViT went on."""
        if self.seen.merged is None or self.crop_total() > 1:
            return torch.arange(self.tokens, device=self.seen.output.last_hidden_state.device)
        return self._once("labels", self._labels)

    def _representatives(self) -> Tensor:
        labels = self._once("labels", self._labels)
        order = labels.argsort(stable=True)
        ordered = labels[order]
        first = (ordered.diff(prepend=labels.new_zeros(1)) != 0) & (ordered != 0)  # newlines, 0, stand for no patch
        return torch.zeros_like(first).scatter(0, order, first)

    def _labels(self) -> Tensor:
        """(tokens,) long: a number for each group that was merged, in the ViT's order; 0 for newlines."""
        merged, cls = self.seen.merged, int(self.adapter.geometry.cls)
        assert merged is not None
        crops, patches = merged.shape
        numbers = torch.arange(1, crops * patches + 1)
        self._refuse_mixing(torch.cat([torch.zeros(crops, cls), numbers.view(crops, patches)], dim=1))
        # a number of its own for every group of every crop, so that the same place in two crops is not one group
        groups = merged + torch.arange(0, crops * patches, patches, device=merged.device)[:, None] + 1
        values = torch.cat([groups.new_zeros(crops, cls), groups], dim=1)[..., None].double()
        if cls and self.adapter.blocks(self.seen, self.item, values).shape[1] == patches + 1:
            values[:, 0, 0] = -1.0 - torch.arange(crops, device=values.device)  # CLS is a visual token of its own
        return self.adapter.arrange(self.seen, self.item, values)[:, 0].long()

    def _refuse_mixing(self, numbers: Tensor) -> None:
        """Raises UnsupportedError where some visual token mixes patches; ``numbers`` (crops, sequence), on the CPU."""
        arranged = self.adapter.arrange(self.seen, self.item, numbers[..., None].double())
        if bool((arranged != arranged.round()).any()):
            raise UnsupportedError(
                "this backbone interpolates between patches of a picture of this size, so that patches merged inside "
                "the vision tower cannot be told apart; use another method"
            )

    def seed(self) -> int:
        """From the pixels alone."""
        return self._once(
            "seed", lambda: zlib.crc32(self.adapter.pixels(self.seen, self.item).float().cpu().numpy().tobytes())
        )

    def _arranged(self, compute: Callable[[VisionPass, int], Tensor], name: str, layer: int) -> Tensor:
        memo = self.seen.memo
        if (name, layer) not in memo:
            memo[name, layer] = compute(self.seen, layer)
        return self.adapter.arrange(self.seen, self.item, memo[name, layer])

    def _once(self, key: object, compute: Callable[[], Any]) -> Any:
        memo = self.seen.memo
        if (self.item, key) not in memo:
            memo[self.item, key] = compute()
        return memo[self.item, key]


class FusionView:
    """One medium's ViT states by crop (implements :class:`clasp.methods.contract.Tower`)."""

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self.feature_layer = medium.adapter.geometry.feature_layer

    def hidden_state(self, index: int) -> Tensor:
        medium = self._medium
        return medium.adapter.blocks(medium.seen, medium.item, medium.state(index))


class CropsView:
    """One medium's crops (implements :class:`clasp.methods.contract.Crops`)."""

    def __init__(self, medium: Medium, sizes: Sequence[int]) -> None:
        self._medium, self.sizes = medium, sizes
        self.whole = medium.adapter.whole_first(medium.seen, medium.item)

    def attention(self, layer: int) -> Tensor:
        return self._medium.attention(layer)[self._medium.crops().to(self._medium.attention(layer).device) == 0]

    def covering(self) -> Tensor:
        return self._medium.adapter.covering(self._medium.seen, self._medium.item)


class VisionRows:
    """The values of some rows' tokens (implements :class:`clasp.methods.contract.Vision`).

    Args:
        rows: per row, the media that it takes tokens from and (tokens,) places among all their tokens together; with
            one crop a row, also that crop's number.
    """

    def __init__(self, adapter: Adapter, rows: Sequence[tuple[Sequence[Medium], Tensor, int | None]]) -> None:
        self._adapter, self._rows = adapter, rows
        self.feature_layer = adapter.geometry.feature_layer
        self.last_layer = min(self.feature_layer, adapter.geometry.vision_layers - 1)
        self.has_cls = adapter.geometry.cls

    def hidden_state(self, index: int) -> Tensor:
        return self._stack(lambda medium: medium.hidden_state(index))

    def attention(self, layer: int) -> Tensor:
        return self._stack(lambda medium: medium.attention(layer))

    def keys(self, layer: int) -> Tensor:
        return self._stack(lambda medium: medium.keys(layer))

    def heads(self, layer: int, kind: Projection) -> Tensor:
        return self._stack(lambda medium: medium.heads(layer, kind), dim=1)

    def representatives(self) -> Tensor:
        return self._stack(lambda medium: medium.representatives())

    def groups(self) -> Tensor:
        return torch.stack([sum(medium.representatives().sum() for medium in media) for media, _, _ in self._rows])

    def sequence(self) -> Tensor:
        rows = []
        for media, places, _ in self._rows:
            before, values = 0, []
            for medium in media:  # one medium after the other
                values.append(medium.sequence() + before)
                before += medium.crop_total() * medium.tokens + 1
            joined = torch.cat(values)
            rows.append(joined[places.to(joined.device)])
        return torch.stack(rows)

    def cls_state(self, index: int) -> Tensor:
        states = []
        for media, _, crop in self._rows:
            if crop is None:
                raise ValueError("cls_state has a meaning for single crops only; set the method's scope to 'crop'")
            states.append(media[0].cls_states(index)[crop])
        return torch.stack(states)

    def project(self, features: Tensor) -> Tensor:
        return self._adapter.project(features)

    def _stack(self, value: Callable[[Medium], Tensor], dim: int = 0) -> Tensor:
        """Each row's tokens' own of values whose ``dim`` runs over a medium's tokens."""
        rows = []
        for media, places, _ in self._rows:
            values = [value(medium) for medium in media]
            joined = values[0] if len(values) == 1 else torch.cat(values, dim=dim)
            rows.append(joined.index_select(dim, places.to(joined.device)) if dim else joined[places.to(joined.device)])
        return torch.stack(rows)
