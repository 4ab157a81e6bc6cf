"""What every pruning method is: a frozen dataclass of parameters with one `select` over named ops.

A method knows nothing about models, devices, hooks or files. The engine hands it a :class:`State` at each stage and
does everything else: dropping hidden states, masks, positions and KV cache.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor

from clasp.budget import ACCOUNTINGS, Accounting, Budget, BudgetError, Geometry, Schedule, Stage
from clasp.fingerprint import code_fingerprint

if TYPE_CHECKING:
    from clasp.engine import Run

_ENGINE = "clasp.engine"
"""Code that every method's answers pass through, beside the backbone's adapter."""

Positions = Literal["original", "contiguous"]
Queries = Literal["instruction", "last"]
Scope = Literal["sample", "image", "crop"]


class Vision(Protocol):
    """The vision tower's inner values for the rows of one state, computed when asked for.

    A row's tokens are those of the state, in the same order. On backbones that merge patches into one visual token
    (Qwen-VL: 2 x 2), a token's hidden state is its patches' concatenated, its key and its attention their mean. Tokens
    that stand for no patch (newline tokens of any-resolution backbones; only in scopes ``sample`` and ``image``) have
    zeros throughout.
    """

    feature_layer: int
    """Index of the ViT hidden state that the projector reads."""
    has_cls: bool
    """Whether the tower has a CLS token."""

    def hidden_state(self, index: int) -> Tensor:
        """(rows, tokens, vision_dim) ViT hidden state in the form that the projector reads; 0 = embeddings."""
        ...

    def attention(self, layer: int) -> Tensor:
        """(rows, tokens) float32: attention of CLS to each patch in ViT layer ``layer`` (0-based), mean over heads.

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

    def project(self, features: Tensor) -> Tensor:
        """(rows, any, vision_dim) -> (rows, any, hidden) through the backbone's projector."""
        ...

    def representatives(self) -> Tensor:
        """(rows, tokens) bool: tokens that stand for themselves after :meth:`Method.merge`; all where none merged."""
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
        (rows, words) bool which of them are real. Instruction: the user's own text after the image, without system
        prompt and template."""
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

    def clip_similarity(self, text_tower: str) -> Tensor:
        """(rows, visual) float32: mean cosine similarity between a patch and the prompt's text, both projected by the
        CLIP model ``text_tower`` (hub id or folder), whose vision tower the backbone has."""
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
            the tokens go on (their places in the sequence stay the same set), so ascending keeps it.
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


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A pruning method and its parameters.

    Args:
        tokens: visual tokens per image, by ``accounting``; or
        ratio: the share of an image's visual tokens that is removed.
        accounting: what ``tokens`` counts: ``output_average`` (mean over decoder layers; comparable between methods) or
            ``nominal`` (the count after the pruning step); some methods know others, such as their paper's own.
        positions: rotary positions after pruning: ``original`` ones, or re-indexed ``contiguous``.

    Used as ``with method(model, processor) as run``.
    """

    name: ClassVar[str]
    scope: ClassVar[Scope] = "sample"
    """What is ranked together: all visual tokens of a prompt, of one image or video, or of one crop or frame of it.
    With ``crop``, tokens that belong to no crop (newlines) go first."""
    lookback: ClassVar[int] = 0
    """0: attention of the stage's own layer; 1: of the layer before the cut."""
    reads_cls: ClassVar[bool] = False
    """Whether it ranks by the attention of CLS, for which something else stands in where there is none."""
    prunes: ClassVar[bool] = True
    accountings: ClassVar[tuple[Accounting, ...]] = ACCOUNTINGS
    """Values of ``accounting`` that the method knows, the default first."""
    assumptions: ClassVar[tuple[str, ...]] = ()
    """What of this method is not stated by its paper."""

    tokens: int | None = None
    ratio: float | None = None
    accounting: Accounting = "output_average"
    positions: Positions = "original"

    def __post_init__(self) -> None:
        if self.accounting not in self.accountings:
            raise ValueError(
                f"unknown accounting {self.accounting!r} for {self.name}; use one of {', '.join(self.accountings)}"
            )
        if self.positions not in ("original", "contiguous"):
            raise ValueError(f"unknown positions {self.positions!r}; use original or contiguous")
        if self.prunes:
            Budget(self.tokens, self.ratio)
        elif self.tokens is not None or self.ratio is not None:
            raise BudgetError(f"method {self.name!r} does not prune and takes no budget; leave tokens and ratio out")

    def target(self, visual_tokens: int) -> int:
        """The budget as a count for one image."""
        return Budget(self.tokens, self.ratio).resolve(visual_tokens)

    @abstractmethod
    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        """Stages for one image of ``visual_tokens`` tokens over ``layers`` decoder layers.

        Raises:
            BudgetError: the budget cannot be met.
        """

    @abstractmethod
    def select(self, state: State, keep: int) -> Selection:
        """Chooses ``keep`` visual tokens of each row, with 1 <= keep < visual tokens of the row."""

    def check(self, geometry: Geometry) -> Schedule:
        """The schedule on a backbone, with everything verified that can be verified before a model is loaded.

        Raises:
            ValueError: the method needs what the backbone lacks, or the budget cannot be met on it.
        """
        if geometry.packed_vision and self.merge_layers(geometry.feature_layer):
            raise ValueError(
                f"method {self.name!r} merges inside the vision tower, which packs the patches of a batch into one "
                f"sequence on this backbone; use another method"
            )
        return self.schedule(geometry.visual_tokens, geometry.layers)

    def stand_ins(self, geometry: Geometry) -> tuple[str, ...]:
        """What takes the place of something that this backbone lacks; stated beside every result."""
        notes: list[str] = []
        if self.reads_cls and not geometry.cls:
            notes.append(f"{self.name}: no CLS token; the attention received from the crop's patches stands in")
        if self.positions == "contiguous" and geometry.multimodal_rotary:
            notes.append(f"{self.name}: multimodal rotary positions are kept; contiguous ones are not defined for them")
        return tuple(notes)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        """Indices of the ViT hidden states (0 = embeddings) that the method reads; only these are held on to."""
        return ()

    def allocate(self, image: Crops, keep: int) -> list[int]:
        """Splits an image's budget over its crops (scope ``crop``); by default in proportion to their tokens.

        Returns:
            One count a crop, each at most its tokens, ``keep`` in all.
        """
        return proportional(image.sizes, image.sizes, keep)

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        """ViT layers (0-based) after which the method merges patches inside the vision tower."""
        return ()

    def merge(self, layer: int, patches: Patches) -> Tensor:
        """Which patch each patch is merged into after ViT layer ``layer``.

        Returns:
            (crops, patches) long indices into the patches; a patch that stays points at itself, and only at such a
            one may others point. Merged patches become their size-weighted mean; the ViT's further attention counts
            them by size. The projector's input is unmerged: every patch has the features of what it was merged into.
        """
        raise NotImplementedError

    def route(self, prompts: Sequence[str]) -> list[str] | None:
        """Category of each prompt, for methods that route; None for the others."""
        return None

    def fuse(self, vision: Tower, category: str | None) -> Tensor | None:
        """Features of one image for the projector, (crops, patches, vision_dim); None leaves the backbone's."""
        return None

    def identity(self, *modules: str) -> dict[str, Any]:
        """Everything of the method that can change a score, as JSON values: name, parameters, code fingerprint.

        Args:
            modules: dotted names of further code that its answers pass through (the backbone's adapter).
        """
        parameters = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        code = code_fingerprint(type(self).__module__, _ENGINE, *modules)
        return {"name": self.name, "parameters": parameters, "code": code}

    def __call__(self, model: Any, processor: Any) -> Run:
        """The context manager that prunes ``model`` while it is open."""
        from clasp.engine import Run  # the one import that points up: it is what makes `with method(model, ...)` work

        return Run(self, model, processor)


def proportional(weights: Sequence[float], limits: Sequence[int], total: int) -> list[int]:
    """Splits ``total`` in proportion to ``weights``, no part above its limit, what rounding leaves to the largest rest.

    Args:
        weights: non-negative; all zero counts as all equal.
        limits: at least ``total`` in all.

    Raises:
        ValueError: the limits leave no room for ``total``.
    """
    if sum(limits) < total:
        raise ValueError(f"{total} tokens do not fit into limits {list(limits)}")
    parts, free = list(limits), list(range(len(limits)))
    while free:  # parts whose share exceeds their limit stay at it, and the others share what is left
        left = total - sum(parts[i] for i in range(len(parts)) if i not in free)
        scale = sum(weights[i] for i in free)
        shares = {i: left * (weights[i] / scale if scale > 0 else 1 / len(free)) for i in free}
        within = [i for i in free if shares[i] < limits[i]]
        if len(within) == len(free):
            break
        free = within
    for i in free:
        parts[i] = int(shares[i])
    rests = sorted(free, key=lambda i: (parts[i] - shares[i], i))
    for i in rests[: total - sum(parts)]:
        parts[i] += 1
    return parts


def plain(value: Any) -> Any:
    """A parameter as JSON values, for signatures and results files.

    Raises:
        TypeError: the value has no faithful JSON form.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} cannot be part of a method's identity")
        return value
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in sorted(value.items())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": getattr(value, "name", type(value).__name__), **fields}
    raise TypeError(f"{type(value).__name__} cannot be part of a method's identity")
