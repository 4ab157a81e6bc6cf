"""What a method is shown, and what it answers.

A method knows nothing about models, devices, hooks or files: the engine hands it a :class:`State` at each stage, and
acts on the :class:`Selection` that comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from clasp.budget import Stage

Positions = Literal["original", "contiguous"]
Queries = Literal["instruction", "last"]
Projection = Literal["q", "k", "v"]
Scope = Literal["sample", "image", "crop"]
Span = Literal["instruction", "after_image"]
"""Which tokens of a prompt are its text to a method: the user's own words after the image, without system prompt and
template; or everything after the last image, the template's closing included, as most official code takes it."""


class Vision(Protocol):
    """The vision tower's inner values for the rows of one state, computed when asked for.

    A row's tokens are those of the state, in the same order. On backbones that merge patches into one visual token
    (Qwen-VL: 2 x 2), a token's hidden state is its patches' concatenated, its key and its attention their mean. Tokens
    that stand for no patch (newline tokens of any-resolution backbones; only in scopes ``sample`` and ``image``) have
    zeros throughout.
    """

    feature_layer: int
    """Index of the ViT hidden state that the projector reads."""
    last_layer: int
    """The ViT layer that computes on that hidden state, the last one where the second to last state is read; where
    there is no layer behind it, the last one."""
    has_cls: bool
    """Whether the tower has a CLS token."""

    def hidden_state(self, index: int) -> Tensor:
        """(rows, tokens, vision_dim) ViT hidden state in the form that the projector reads; 0 = embeddings."""
        ...

    def attention(self, layer: int) -> Tensor:
        """(rows, tokens) float32: attention of CLS to each patch in ViT layer ``layer`` (0-based), mean over heads.

        Patches that were merged before (:meth:`Method.merge`) count as one, and all have the value of that one.
        Without CLS the attention that a patch receives from all patches of its crop, mean over heads and patches,
        stands in; :attr:`Method.reads_cls` makes results say so.
        """
        ...

    def cls_state(self, index: int) -> Tensor:
        """(rows, vision_dim) the CLS token's hidden state; only with scope ``crop`` and where there is one."""
        ...

    def keys(self, layer: int) -> Tensor:
        """(rows, tokens, head_dim) keys of ViT layer ``layer``, mean over heads."""
        ...

    def heads(self, layer: int, kind: Projection) -> Tensor:
        """(rows, heads, tokens, head_dim) queries, keys or values of ViT layer ``layer``, before any rotary embedding.

        The layer's input must be among :meth:`Method.vision_states`, as for every value of a layer.
        """
        ...

    def project(self, features: Tensor) -> Tensor:
        """(rows, any, vision_dim) -> (rows, any, hidden) through the backbone's projector."""
        ...

    def representatives(self) -> Tensor:
        """(rows, tokens) bool: tokens that stand for themselves after :meth:`Method.merge`; all where none merged."""
        ...

    def groups(self) -> Tensor:
        """(rows,) long: how many tokens of the row's images and videos stand for themselves, also where an earlier
        stage dropped some."""
        ...

    def sequence(self) -> Tensor:
        """(rows, tokens) long: by rising value, the order in which the ViT went on after :meth:`Method.merge`. The
        order of the tokens themselves where nothing merged, and in images of several crops."""
        ...


class State(Protocol):
    """What a method sees at one stage. A row is a sample, an image or one crop of an image, by the method's scope."""

    stage: Stage
    visual_tokens: int
    """Visual tokens of each row at this stage."""

    @property
    def categories(self) -> Sequence[str] | None:
        """Question category of each row, where the method routes."""
        ...

    def tokens(self) -> Tensor:
        """(rows, visual, hidden) hidden states of the visual tokens that enter the stage's layer."""
        ...

    def text(self) -> tuple[Tensor, Tensor]:
        """(rows, words, hidden) hidden states of the instruction's tokens that enter the stage's layer, padded, and
        (rows, words) bool which of them are real. Instruction: what :meth:`Method.span` says."""
        ...

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        """What entered the decoder: all visual tokens of the row (rows, original visual, hidden), the instruction's
        tokens (rows, words, hidden), and (rows, words) bool which of these are real."""
        ...

    def attention(self, queries: Queries) -> Tensor:
        """(rows, visual) float32: attention paid to each visual token, mean over heads and query rows.

        ``instruction``: the instruction's tokens (see :meth:`text`); ``last``: the last prompt token. Probabilities
        over all keys, by the projections of the decoder layer that the method looks at (the stage's own layer, or
        ``lookback`` layers before it).
        """
        ...

    def text_attention(self) -> Tensor:
        """(rows, words, visual) float32: as :meth:`attention`, for each instruction token alone; padding is zero."""
        ...

    def key_norms(self) -> tuple[Tensor, Tensor]:
        """L1 norms of the post-rotary keys, heads concatenated, in the layer that the method looks at: (rows, visual)
        and (rows, words), float32."""
        ...

    def normed(self, hidden: Tensor) -> Tensor:
        """Hidden states through the decoder's final norm."""
        ...

    def clip_similarity(self, text_tower: str, without: Sequence[str] = ()) -> Tensor:
        """(rows, visual) float32: mean cosine similarity between a patch, in the hidden state that the projector reads,
        and the prompt's text, both projected by the CLIP model ``text_tower`` (hub id or folder), whose vision tower
        the backbone has.

        Args:
            without: passages that are taken out of the text first.
        """
        ...

    def vision(self) -> Vision:
        """The vision tower's values."""
        ...

    def seeds(self) -> list[int]:
        """One seed a row, from the image's pixels alone: the same whatever the batch, the order or the beam."""
        ...


class Tower(Protocol):
    """The ViT's hidden states of one image or video, for layer fusion."""

    feature_layer: int

    def hidden_state(self, index: int) -> Tensor:
        """(crops, patches, vision_dim) ViT hidden state; 0 = embeddings. Without CLS."""
        ...


class Crops(Protocol):
    """One image as its crops see it, for splitting its budget."""

    sizes: Sequence[int]
    """Visual tokens of each crop, padding removed, possibly none; the first may show the whole image (``whole``)."""
    whole: bool
    """Whether the first crop is the whole image and further ones tile it (any-resolution backbones)."""

    def attention(self, layer: int) -> Tensor:
        """(tokens of the first crop,) float32, see :meth:`Vision.attention`."""
        ...

    def covering(self) -> Tensor:
        """(tokens of the first crop,) long: which crop (1, 2, ...) covers the same place; only with ``whole``."""
        ...


@dataclass(frozen=True)
class Patches:
    """What a merging method sees inside the vision tower, without CLS.

    Args:
        hidden: (crops, patches, vision_dim) output of the layer.
        keys: (crops, patches, head_dim) keys of the layer, mean over heads.
        sizes: (crops, patches) how many of the original patches each stands for; 0 marks padding, which must point at
            itself.
        places: (crops, patches) long, row-major places in the crop's grid.
        grid: rows and columns of the crop's grid.
        keep: patches that each crop is to end with.
        remaining: merging layers from this one on, itself included.
    """

    hidden: Tensor
    keys: Tensor
    sizes: Tensor
    places: Tensor
    grid: tuple[int, int]
    keep: int
    remaining: int


@dataclass(frozen=True)
class Selection:
    """What stays at a stage.

    Args:
        index: (rows, keep) long, distinct, into the row's visual tokens at this stage. The order is the order in which
            the tokens go on (their places in the sequence stay the same set), so ascending keeps it. Where rotary
            positions are not re-indexed (``positions="original"``, multimodal ones), the order stays what it was.
        features: (rows, keep, hidden) replaces the kept tokens' hidden states (merging methods).
        replaced: (rows, keep) bool, which of ``features`` are used; None: all.
        pivots: (rows, keep) bool, for traces: kept for relevance rather than for coverage.
        valid: (rows, any) bool, for methods whose counts depend on the data: ``index`` then has as many columns as
            this, more or fewer than asked for, and its False entries are dropped after all. At least one a row is True.
    """

    index: Tensor
    features: Tensor | None = None
    replaced: Tensor | None = None
    pivots: Tensor | None = None
    valid: Tensor | None = None
