"""Pruning for servers that only have an image's or a video's embeddings: how many tokens to keep, and which.

A server such as vLLM writes a prompt's placeholders before it computes any feature. It therefore needs first a count
from the sizes alone, and later, from the encoder's output, a mask of exactly that many tokens. Both functions have the
arguments of vLLM's functions of the same names (``vllm/multimodal/evs.py``, arXiv 2510.14624), with a method in place
of the pruning rate ``q``, which is ``ratio`` here. docs/serving.md has an example and lists the supported methods;
others are refused by name. Count and mask equal the engine's, for whole images and videos whose tokens form a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from clasp.budget import Stage
from clasp.methods.base import Method
from clasp.methods.protocols import Frames, Grid, Selection

LAYERS = 32
"""Decoder layers of the schedules; any number gives the same single stage before the first layer."""


class NotServableError(ValueError):
    """A method that needs more than embeddings; the message names it and what it reads."""


@lru_cache(maxsize=4096)
def compute_retained_tokens_count(method: Method, tokens_per_frame: int, num_frames: int = 1) -> int:
    """Number of an image's or video's tokens to keep, from its sizes alone.

    Args:
        tokens_per_frame: visual tokens of a frame; of an image, all of them.

    Raises:
        NotServableError: the method reads more than embeddings, or its counts depend on their values.
        BudgetError: more tokens are requested than there are.
    """
    # run on random embeddings, which also shows whether the method reads anything else
    total = tokens_per_frame * num_frames
    if tokens_per_frame < 1 or num_frames < 1:
        raise ValueError(
            f"{num_frames} frames of {tokens_per_frame} tokens are not possible; both numbers must be 1 or more"
        )
    if method.resizes:
        raise NotServableError(
            f"method {method.name!r} makes images smaller before the processor, and a server asks about the tokens "
            f"of the full image; limit images' pixels in the server, or use pool"
        )
    stages = method.schedule(total, LAYERS).stages if method.prunes else ()
    if method.merge_layers(1) or [stage.cut for stage in stages] not in ([], [0]):
        raise NotServableError(
            f"method {method.name!r} acts inside the vision tower or the decoder, and a server has only embeddings; "
            f"use one that prunes before the decoder, such as divprune"
        )
    values = torch.randn(total, 8, generator=torch.Generator().manual_seed(0))
    return int(_selected(method, values, num_frames, 1, tokens_per_frame)[0].sum())


def compute_retention_mask(
    method: Method, embeds: Tensor, size_thw: Sequence[int] | Tensor, spatial_merge_size: int = 1
) -> Tensor:
    """Mask of an image's or video's tokens to keep.

    Args:
        embeds: (tokens, hidden) the encoder's output, projected, frame by frame in raster order.
        size_thw: frames, and rows and columns of patches.
        spatial_merge_size: patches along one side of the square that makes one token; 1 where rows and columns count
            tokens.

    Returns:
        (tokens,) bool, as many True as :func:`compute_retained_tokens_count` says.

    Raises:
        NotServableError: as for the count.
        ValueError: the sizes are not those of the embeddings.
    """
    return _retained(method, embeds, size_thw, spatial_merge_size)[0]


def retained_embeddings(
    method: Method, embeds: Tensor, size_thw: Sequence[int] | Tensor, spatial_merge_size: int = 1
) -> Tensor:
    """(kept, hidden) the embeddings for the kept placeholders: unchanged, or as the method replaces them (pooling: each
    window's mean). Arguments and errors as for :func:`compute_retention_mask`."""
    mask, changed = _retained(method, embeds, size_thw, spatial_merge_size)
    return changed[mask]


def _retained(
    method: Method, embeds: Tensor, size_thw: Sequence[int] | Tensor, spatial_merge_size: int
) -> tuple[Tensor, Tensor]:
    """(tokens,) bool mask, and (tokens, hidden) embeddings with the method's replacements at kept tokens."""
    frames, high, wide = (int(side) for side in size_thw)
    rows, columns = high // spatial_merge_size, wide // spatial_merge_size
    if embeds.ndim != 2 or len(embeds) != frames * rows * columns:
        raise ValueError(
            f"embeddings of shape {tuple(embeds.shape)} are not those of {frames} frames of {rows} x {columns} tokens; "
            f"give (tokens, hidden) without newlines, and the sizes that the processor says"
        )
    count = compute_retained_tokens_count(method, rows * columns, frames)
    mask, changed = _selected(method, embeds, frames, rows, columns)
    if int(mask.sum()) != count:
        raise NotServableError(
            f"method {method.name!r} keeps a number of tokens that depends on the embeddings; use another one"
        )
    return mask, changed


def _selected(method: Method, embeds: Tensor, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    total, size = frames * rows * columns, rows * columns
    mask, changed = torch.ones(total, dtype=torch.bool, device=embeds.device), embeds.clone()
    stages = method.schedule(total, LAYERS).stages if method.prunes else ()
    if not stages:
        return mask, changed
    for start, end, keep in _parts(method, stages[0], total, size):
        if keep >= end - start:
            continue
        mask[start:end] = False
        if keep == 0:
            continue
        held = frames if end - start == total else 1
        state: Any = EmbeddingState(method.name, stages[0], embeds[start:end], (held, rows, columns))
        selection: Selection = method.select(state, keep)
        if selection.valid is not None:
            raise NotServableError(
                f"method {method.name!r} keeps a number of tokens that depends on the embeddings; use another one"
            )
        index = selection.index[0].to(embeds.device) + start
        mask[index] = True
        if selection.features is not None:
            changed[index] = selection.features[0].to(changed.dtype)
    return mask, changed


def _parts(method: Method, stage: Stage, total: int, size: int) -> Iterator[tuple[int, int, int]]:
    """The groups of tokens that are ranked together: start, end (exclusive), and how many to keep."""
    if method.scope_at(stage) != "crop" or stage.keep >= total:
        yield 0, total, stage.keep
        return
    crops = FrameSizes(method.name, [size] * (total // size))
    for number, keep in enumerate(method.allocate(crops, stage.keep)):
        yield number * size, (number + 1) * size, keep


class _Refusing:
    """Raises an error that names the attribute when a method reads anything but embeddings."""

    def __init__(self, method: str) -> None:
        self._method = method

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotServableError(
            f"method {self._method!r} reads {name!r}, while a server has only embeddings; use one that reads nothing "
            f"else, such as divprune"
        )


class FrameSizes(_Refusing):
    """Implements the part of :class:`clasp.methods.protocols.Crops` that follows from sizes alone."""

    whole = False

    def __init__(self, method: str, sizes: Sequence[int]) -> None:
        super().__init__(method)
        self.sizes = sizes
        self.video = len(sizes) > 1


@dataclass(frozen=True)
class _Unseeded(Sequence[int]):
    """One seed per row, without a value: the engine derives seeds from the pixels, which are not available here."""

    method: str

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: Any) -> NoReturn:
        raise NotServableError(
            f"method {self.method!r} uses a seed from the image's pixels; use one without random choices"
        )


class EmbeddingState(_Refusing):
    """Implements the part of :class:`clasp.methods.protocols.State` that follows from one medium's embeddings.

    Args:
        embeds: (tokens, hidden).
        size: frames, and rows and columns of tokens.
    """

    categories = None

    def __init__(self, method: str, stage: Stage, embeds: Tensor, size: tuple[int, int, int]) -> None:
        super().__init__(method)
        self.stage, self.layer, self.visual_tokens = stage, stage.cut, len(embeds)
        self.scratch: list[dict[Any, Any]] = [{}]
        self._embeds, self._size = embeds, size

    def tokens(self) -> Tensor:
        return self._embeds[None]

    def seeds(self) -> Sequence[int]:
        return _Unseeded(self._method)

    def grid(self) -> Grid:
        count, rows, columns = self._size
        frames = self.frames()
        return Grid(frames.frame, frames.place // columns, frames.place % columns, [[(rows, columns)] * count])

    def frames(self) -> Frames:
        count, rows, columns = self._size
        size, tokens = rows * columns, torch.arange(self.visual_tokens, device=self._embeds.device)[None]
        return Frames(count, size, tokens // size, tokens % size)
