"""The interface between the engine and a method: the state that a method reads, and the selection that it returns.

A method knows nothing about models, devices, hooks or files: the engine hands it a :class:`State` at each stage, and
applies the :class:`Selection` that the method returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from clasp.budget import Geometry, Schedule, Stage

Positions = Literal["original", "contiguous"]
Queries = Literal["instruction", "last", "text", "visual", "start", "prompt"]
"""Tokens of a row's prompt: ``instruction`` the user's own text after the image, without system prompt and template;
``last`` the last token; ``text`` all that is behind the row's visual tokens, template included, and no placeholder;
``visual`` the row's visual tokens; ``start`` all up to the last of these, system prompt included; ``prompt`` everything
but padding."""
Projection = Literal["q", "k", "v"]
Scope = Literal["sample", "image", "crop"]
Span = Literal["instruction", "after_image"]
"""Which tokens of a prompt are its text to a method: the user's own words after the image, without system prompt and
template; or everything after the last image, the template's closing included, as most official code takes it."""


@dataclass(frozen=True)
class Grid:
    """Where each visual token of some rows lies.

    An image that is cut into tiles has two frames: 0 is the whole of it and 1 the tiles beside each other, without the
    padding at the edges; where the model's inputs do not say how the tiles lie (InternVL3, SmolVLM2), each is a frame
    and the whole is the last. Frames of several images or videos are numbered on. Rows and columns count the visual
    tokens of a frame, so that a merged or pooled token is one; in scope ``crop``, those that the crop has left.

    Args:
        frame, row, column: (rows, tokens) long, on the device of the state; -1 where a token has no place (newline,
            CLS).
        sizes: per row, of each of its frames, how many rows and columns it has.
    """

    frame: Tensor
    row: Tensor
    column: Tensor
    sizes: Sequence[Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Frames:
    """The visual tokens of some rows by frame, all rows having equally many frames of equal size.

    An image counts as one frame, whatever tiles and newlines it has. A frame is what the ViT makes tokens of at once:
    on Qwen-VL two sampled frames of the video. On Video-LLaVA its CLS token is its first one.

    Args:
        count: frames of each row.
        size: tokens of each frame, as they entered the decoder.
        frame: (rows, tokens) long, the frame of each token that is left, from 0 on; -1 where it is of none (newline).
        place: (rows, tokens) long, its place in the frame, the same for what shows the same part of the image; -1
            where it is of none.
    """

    count: int
    size: int
    frame: Tensor
    place: Tensor


class Vision(Protocol):
    """The vision tower's inner values for the rows of one state, computed when read.

    A row's tokens are those of the state, in the same order. On backbones that merge patches into one visual token
    (Qwen-VL: 2 x 2), a token's hidden state is its patches' concatenated, its key and its attention their mean. Tokens
    that stand for no patch (newline tokens of any-resolution backbones; only in scopes ``sample`` and ``image``) have
    zeros throughout.
    """

    feature_layer: int
    """Index of the ViT hidden state that the projector reads."""
    last_layer: int
    """The ViT layer whose input is that hidden state; where the ViT ends with it, the last layer."""
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

    def attention_heads(self, layer: int) -> Tensor:
        """(rows, heads, tokens) float32: as :meth:`attention`, for each head alone."""
        ...

    def received(self, layer: int, *, others: bool = False) -> Tensor:
        """(rows, tokens) float32: attention that each patch receives in ViT layer ``layer`` from all of its crop,
        itself and CLS included, mean over heads and over the queries. Patches that were
        merged before count one by one, unlike in :meth:`attention`.

        Args:
            others: leave out the attention of CLS and of the patch itself; the mean is still over all queries.
        """
        ...

    def keys(self, layer: int) -> Tensor:
        """(rows, tokens, head_dim) keys of ViT layer ``layer``, mean over heads."""
        ...

    def heads(self, layer: int, kind: Projection) -> Tensor:
        """(rows, heads, tokens, head_dim) queries, keys or values of ViT layer ``layer``, before any rotary embedding.

        The layer's input must be among :meth:`Method.vision_states`, as for every value of a layer.
        """
        ...

    def cls_heads(self, layer: int, kind: Projection) -> Tensor:
        """(rows, heads, head_dim) those of the CLS token; where :meth:`cls_state` has a meaning."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """(rows, any, vision_dim) -> (rows, any, hidden) through the backbone's projector."""
        ...

    def representatives(self) -> Tensor:
        """(rows, tokens) bool: tokens that stand for themselves after :meth:`Method.merge`; all where none merged."""
        ...

    def groups(self) -> Tensor:
        """(rows,) long: how many tokens of the row's images and videos stand for themselves, counted before any stage
        dropped some."""
        ...

    def sequence(self) -> Tensor:
        """(rows, tokens) long sort keys: by rising value, tokens are in the order in which their patches went through
        the ViT after :meth:`Method.merge`. Where nothing merged, and in images of several crops, that is the order of
        the tokens themselves."""
        ...


class Decoder(Protocol):
    """What one decoder layer computes with, for the tokens that the rows of a state still have; computed when read.

    Tokens that were dropped after that layer count among the keys of its attention; nothing else has them.
    """

    layer: int

    def hidden(self, of: Queries = "visual") -> Tensor:
        """(rows, tokens, hidden) input of the layer; values at padding are arbitrary."""
        ...

    def real(self, of: Queries) -> Tensor:
        """(rows, tokens) bool, which of these tokens are not padding."""
        ...

    def heads(self, kind: Projection, of: Queries = "visual", *, rotated: bool = True) -> Tensor:
        """(rows, heads, tokens, head_dim) queries, keys or values of the layer; fewer heads for keys and values where
        query heads share them. Values at padding are arbitrary.

        Args:
            rotated: whether queries and keys have the rotary embedding of their positions; values never have.
        """
        ...

    def rotary(self) -> tuple[Tensor, Tensor]:
        """(rows, visual, head_dim) each: cosines and sines at the visual tokens' positions in that layer."""
        ...

    def attention(self, queries: Queries | Tensor) -> Tensor:
        """(rows, visual) float32: attention to each visual token, mean over heads and over the query tokens.

        Probabilities over all keys that the layer's causal attention has. With ``prompt`` or ``visual`` it is the
        attention received; a query that cannot see a token counts with zero.

        Args:
            queries: the query tokens, or (rows, visual) bool, which of the row's visual tokens they are.
        """
        ...

    def attention_heads(self, queries: Queries | Tensor) -> Tensor:
        """(rows, heads, visual) float32: as :meth:`attention`, for each query head alone."""
        ...

    def attention_rows(self, queries: Queries) -> Tensor:
        """(rows, tokens, visual) float32: as :meth:`attention`, for each query token; padding is zero. For the
        many queries of ``visual`` and ``prompt`` this is large: use :meth:`attention` or :meth:`heads` for them."""
        ...

    def scaling(self) -> float:
        """Factor on the products of queries and keys."""
        ...


class State(Protocol):
    """What a method sees at one stage. A row is a sample, an image or one crop of an image, by the method's scope."""

    stage: Stage
    visual_tokens: int
    """Visual tokens of each row at this stage."""
    layer: int
    """Decoder layer that the stage's tokens enter; the layer that computes next."""
    depth: int
    """Layers of the decoder."""

    @property
    def scratch(self) -> Sequence[dict[Any, Any]]:
        """One dictionary a row for the method's own notes, kept from stage to stage of one prefill; empty at first."""
        ...

    def decoder(self, layer: int | None = None) -> Decoder:
        """A decoder layer: by default the one that the method looks at (``lookback`` layers before :attr:`layer`).

        Args:
            layer: :attr:`layer` itself, or an earlier one that :meth:`Method.decoder_states` names.

        Raises:
            ValueError: a layer whose input was not stored, or that has not computed yet.
        """
        ...

    def grid(self) -> Grid:
        """Frame, row and column of each visual token."""
        ...

    def frames(self) -> Frames:
        """The visual tokens by frame.

        Raises:
            ValueError: rows of several images or videos; the method's scope is to be ``image``.
        """
        ...

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
        """(rows, visual) float32: :meth:`Decoder.attention` of the decoder layer that the method looks at."""
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

    def clip_similarity(self, text_tower: str | None, without: Sequence[str] = ()) -> Tensor | None:
        """(rows, visual) float32: mean cosine similarity between a patch, in the hidden state that the projector reads,
        and the prompt's text, both projected by the CLIP model whose vision tower the backbone has. None where there is
        no such model.

        Args:
            text_tower: hub id or folder of that model; None: the one that the backbone brings, if any.
            without: passages that are taken out of the text first.
        """
        ...

    def vision(self) -> Vision:
        """The vision tower's values."""
        ...

    def clip_words(self, text_tower: str | None) -> tuple[Tensor, Tensor] | None:
        """(rows, words, dim) float32 unit vectors of every token of the prompt's text, start and end included, in the
        common space of a CLIP model, cut after as many as it reads at once; and (rows, words) bool, which are no
        padding. None where there is no such model.

        Args:
            text_tower: as in :meth:`clip_similarity`.
        """
        ...

    def clip_patches(self, text_tower: str | None, features: Tensor) -> Tensor:
        """(rows, any, vision_dim) ViT hidden states, or what was made of them -> (rows, any, dim) float32 unit vectors
        in that space, by its visual projection alone; where :meth:`clip_words` is not None."""
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

    video: bool
    """Whether the crops are the frames of a video."""

    @property
    def scratch(self) -> dict[Any, Any]:
        """The method's own notes about this image, as :attr:`State.scratch`."""
        ...

    def attention(self, layer: int) -> Tensor:
        """(tokens of the first crop,) float32, see :meth:`Vision.attention`."""
        ...

    def attentions(self, layer: int) -> list[Tensor]:
        """(tokens,) float32 of each crop, see :meth:`Vision.attention`."""
        ...

    def features(self) -> list[Tensor]:
        """(tokens, hidden) of each crop, projected, as they enter the decoder."""
        ...

    def text(self) -> Tensor:
        """(words, hidden) the instruction's tokens as they enter the decoder."""
        ...

    def cls_states(self, index: int) -> Tensor:
        """(crops, vision_dim) the CLS token's ViT hidden state in each crop; only where there is one."""
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
        heads: queries, keys or values of the layer, computed when called: (crops, heads, sequence, head_dim), the
            sequence being CLS, where there is one (``cls``), and the patches that the layer computed on.
        scaling: factor on the products of queries and keys.
        scratch: the method's own notes, kept from layer to layer of one pass of the ViT; empty at first.
    """

    hidden: Tensor
    keys: Tensor
    sizes: Tensor
    places: Tensor
    grid: tuple[int, int]
    keep: int
    remaining: int
    heads: Callable[[Projection], Tensor]
    scaling: float
    cls: bool
    scratch: dict[Any, Any]


@dataclass(frozen=True)
class Selection:
    """What stays at a stage.

    Args:
        index: (rows, keep) long, distinct, into the row's visual tokens at this stage. The order is the order in which
            the tokens go on, on the same set of places in the sequence; ascending leaves it as it is. Where rotary
            positions are not re-indexed (``positions="original"``, multimodal ones), the tokens keep their own order.
            All heads of a layer keep the same tokens: a budget per head is refused. More or fewer columns than asked
            for are taken as they are, for methods with a count of their own that is the same in all rows.
        features: (rows, keep, hidden) replaces the kept tokens' hidden states (merging methods).
        replaced: (rows, keep) bool, which of ``features`` are used; None: all.
        pivots: (rows, keep) bool, for traces: kept for relevance rather than for coverage.
        valid: (rows, any) bool, for methods whose counts depend on the data: ``index`` then has as many columns as
            this, more or fewer than asked for, and its False entries are dropped. At least one a row is True.
        sizes: (rows, keep) how many tokens each kept one stands for, at least 1: from here on, decoding included, its
            logarithm is added to the logits of attention to it (ToMe's proportional attention). Of a method that
            :meth:`Method.weighs`.
    """

    index: Tensor
    features: Tensor | None = None
    replaced: Tensor | None = None
    pivots: Tensor | None = None
    valid: Tensor | None = None
    sizes: Tensor | None = None


class PruningMethod(Protocol):
    """What the engine needs of a method; documented in :class:`clasp.methods.base.Method`."""

    name: ClassVar[str]
    lookback: ClassVar[int]
    weighs_merged: ClassVar[bool]
    cuts_passed: ClassVar[bool]
    own_counts: ClassVar[bool]
    resizes: ClassVar[bool]

    @property
    def tokens(self) -> int | None: ...
    @property
    def positions(self) -> Positions: ...
    def target(self, visual_tokens: int) -> int: ...
    def schedule(self, visual_tokens: int, layers: int) -> Schedule: ...
    def check(self, geometry: Geometry) -> Schedule: ...
    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]: ...
    def select(self, state: State, keep: int) -> Selection: ...
    def vision_states(self, feature_layer: int) -> tuple[int, ...]: ...
    def decoder_states(self, cuts: Sequence[int]) -> tuple[int, ...]: ...
    def span(self) -> Span: ...
    def scope_at(self, stage: Stage) -> Scope: ...
    def allocate(self, image: Crops, keep: int) -> list[int]: ...
    def merge_layers(self, feature_layer: int) -> tuple[int, ...]: ...
    def merge(self, layer: int, patches: Patches) -> Tensor: ...
    def leading(self, layer: int, patches: Patches) -> Tensor | None: ...
    def weighs(self) -> bool: ...
    def fuse(self, vision: Tower, category: str | None) -> Tensor | None: ...

    def route(self, prompts: Sequence[str]) -> list[str] | None:
        """Category of each prompt, for methods that route; None for the others."""
        return None
