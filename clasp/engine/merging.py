"""Merging patches inside the vision tower, for methods with `merge_layers`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clasp.backbones.crops import CropAdapter
from clasp.engine.precision import Ambient
from clasp.methods.protocols import Patches, Projection, PruningMethod
from clasp.ops.select import take


class VisionMerger:
    """One pass of a CLIP or SigLIP tower whose patches merge after some layers (ToMe, arXiv 2210.09461, section 3).

    A merged patch is the size-weighted mean of its members; where the method has
    ``weighs_merged``, further attention counts it by its size (the logarithm of the size is added to the logits: ToMe's
    proportional attention). The tower's output has its full length: every patch gets the features of the one that it
    was merged into.

    Args:
        keep: patches that each crop is to end with.
    """

    def __init__(self, method: PruningMethod, adapter: CropAdapter, modality: Any, keep: int) -> None:
        self._method, self._adapter, self._modality, self._keep = method, adapter, modality, keep
        self._layers = method.merge_layers(adapter.geometry.feature_layer)
        self._cls = int(adapter.geometry.cls)
        self._input: Tensor | None = None
        self._places: Tensor | None = None  # (crops, m) original place of each patch that is left
        self._sizes: Tensor | None = None  # (crops, m) patches that it stands for; 0: padding
        self.slot: Tensor | None = None  # (crops, patches) where in the shortened sequence each patch is; -1: nowhere
        self._scratch: dict[Any, Any] = {}

    def before(self, layer: int, hidden: Tensor) -> Tensor | None:
        """The attention bias of a ViT layer, which counts merged patches by their sizes; None before any merged."""
        self._input = hidden if layer in self._layers else None
        if self._sizes is None:
            return None
        sizes = self._sizes if self._method.weighs_merged else self._sizes.clamp(max=1)
        bias = sizes.float().log().to(hidden.dtype)  # padding: log 0 = -inf, never attended to
        return torch.cat([bias.new_zeros(len(bias), self._cls), bias], dim=1)[:, None, None, :]

    def after(self, layer: int, hidden: Tensor) -> Tensor:
        """The layer's output, shortened where the method merges after it."""
        if layer not in self._layers:
            return hidden
        entered = self._input
        assert entered is not None
        patches = hidden[:, self._cls :]
        crops, count, _ = patches.shape
        if self._places is None or self._sizes is None:
            self._places = torch.arange(count, device=hidden.device).expand(crops, -1)
            self._sizes = torch.ones(crops, count, dtype=torch.long, device=hidden.device)
            self.slot = self._places
        ambient = Ambient(hidden.device)

        def heads(kind: Projection) -> Tensor:
            with ambient():
                return self._adapter.heads_of(self._modality, layer, entered, kind)

        view = Patches(
            hidden=patches,
            keys=self._adapter.keys_of(self._modality, layer, entered)[:, self._cls :],
            sizes=self._sizes,
            places=self._places,
            grid=(self._adapter.side, self._adapter.side),
            keep=self._keep,
            remaining=len([merging for merging in self._layers if merging >= layer]),
            heads=heads,
            scaling=self._adapter.vision_scaling(self._modality, layer),
            cls=bool(self._cls),
            scratch=self._scratch,
        )
        with ambient.off():
            target = self._method.merge(layer, view)
            if target is None:
                return hidden
            leading = self._method.leading(layer, view)
        merged = self._merge(patches, target, leading)
        return torch.cat([hidden[:, : self._cls], merged], dim=1)

    def _merge(self, patches: Tensor, target: Tensor, leading: Tensor | None) -> Tensor:
        """(crops, m, dim) -> (crops, fewer, dim): size-weighted means of the patches that stay, by falling ``leading``
        (crops, m) where it is given, padded on the right."""
        assert self._sizes is not None
        assert self._places is not None
        assert self.slot is not None
        gone = target < 0
        target, left = target.clamp(min=0), self._sizes.masked_fill(gone, 0)
        weighted = patches.float() * left[..., None]
        totals = torch.zeros_like(weighted).scatter_add(1, target[..., None].expand_as(weighted), weighted)
        sizes = torch.zeros_like(left).scatter_add(1, target, left)
        stays = sizes > 0
        count = int(stays.sum(dim=1).max())
        order = stays.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        if leading is not None:
            ranks = leading.argsort(dim=1, descending=True, stable=True)
            order = ranks.gather(1, stays.gather(1, ranks).int().argsort(dim=1, descending=True, stable=True))[
                :, :count
            ]
        where = torch.zeros_like(target).scatter(1, order, torch.arange(count, device=target.device).expand_as(order))
        moved = where.gather(1, target).masked_fill(gone, -1).gather(1, self.slot.clamp(min=0))
        self.slot = moved.masked_fill(self.slot < 0, -1)
        self._places, self._sizes = self._places.gather(1, order), sizes.gather(1, order)
        members = torch.zeros_like(target).scatter_add(1, target, (~gone).long()).gather(1, order)
        means = (take(totals, order) / self._sizes.clamp(min=1)[..., None]).to(patches.dtype)
        return torch.where((members == 1)[..., None], take(patches, order), means)  # what stays alone stays bit for bit

    def unmerged(self, hidden: Tensor) -> Tensor:
        """(crops, shortened sequence, dim) -> (crops, full sequence, dim)."""
        if self.slot is None:
            return hidden
        return torch.cat([hidden[:, : self._cls], take(hidden[:, self._cls :], self.slot.clamp(min=0))], dim=1)
