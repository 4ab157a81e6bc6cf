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

_ENGINE = ("clasp.engine", "clasp.backbones.llava")
"""Code that every method's answers pass through."""

Positions = Literal["original", "contiguous"]
Queries = Literal["instruction", "last"]


class Vision(Protocol):
    """The vision tower's inner values for the images of one prefill, computed when asked for, without CLS."""

    feature_layer: int

    def hidden_state(self, index: int) -> Tensor:
        """(images, tokens, vision_dim) ViT hidden state; 0 = embeddings."""
        ...

    def cls_attention(self, layer: int) -> Tensor:
        """(images, tokens) float32: attention of CLS to each patch in ViT layer ``layer`` (0-based), head mean."""
        ...

    def cls_state(self, index: int) -> Tensor:
        """(images, vision_dim) the CLS token's hidden state."""
        ...

    def keys(self, layer: int) -> Tensor:
        """(images, tokens, head_dim) keys of ViT layer ``layer``, mean over heads."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """(images, tokens, vision_dim) -> (images, tokens, hidden) through the backbone's projector."""
        ...


class State(Protocol):
    """What a method sees at one stage. A row is a sample, or one image where the method's scope is ``image``."""

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

    def attention(self, queries: Queries) -> Tensor:
        """(rows, visual) float32: attention paid to each visual token, mean over heads and query rows.

        ``instruction``: the instruction's own text tokens after the image, without system prompt and template;
        ``last``: the last prompt token. Probabilities over all keys, by the projections of the decoder layer that the
        method looks at (the stage's own layer, or ``lookback`` layers before it).
        """
        ...

    def vision(self) -> Vision:
        """The vision tower's values; only with scope ``image``, where its images are this state's rows in order."""
        ...

    def seeds(self) -> list[int]:
        """One seed a row, from the image's pixels alone: the same whatever the batch, the order or the beam."""
        ...


@dataclass(frozen=True)
class Selection:
    """What stays at a stage.

    Args:
        index: (rows, keep) long, ascending, into the row's visual tokens at this stage.
        features: (rows, keep, hidden) replaces the kept tokens' hidden states (merging methods).
        pivots: (rows, keep) bool, for traces: kept for relevance rather than for coverage.
    """

    index: Tensor
    features: Tensor | None = None
    pivots: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A pruning method and its parameters.

    Args:
        tokens: visual tokens per image, by ``accounting``; or
        ratio: the share of an image's visual tokens that is removed.
        accounting: what ``tokens`` counts: ``output_average`` (mean over decoder layers; comparable between methods) or
            ``nominal`` (the count after the pruning step).
        positions: rotary positions after pruning: ``original`` ones, or re-indexed ``contiguous``.

    Used as ``with method(model, processor) as run``.
    """

    name: ClassVar[str]
    scope: ClassVar[Literal["sample", "image"]] = "sample"
    lookback: ClassVar[int] = 0
    """0: attention of the stage's own layer; 1: of the layer before the cut."""
    prunes: ClassVar[bool] = True
    assumptions: ClassVar[tuple[str, ...]] = ()
    """What of this method is not stated by its paper."""

    tokens: int | None = None
    ratio: float | None = None
    accounting: Accounting = "output_average"
    positions: Positions = "original"

    def __post_init__(self) -> None:
        if self.accounting not in ACCOUNTINGS:
            raise ValueError(f"unknown accounting {self.accounting!r}; use one of {', '.join(ACCOUNTINGS)}")
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
        """The schedule on a backbone, with everything verified that can be verified before a model is loaded."""
        return self.schedule(geometry.visual_tokens, geometry.layers)

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        """Indices of the ViT hidden states (0 = embeddings) that the method reads; only these are held on to."""
        return ()

    def route(self, prompts: Sequence[str]) -> list[str] | None:
        """Category of each prompt, for methods that route; None for the others."""
        return None

    def fuse(self, vision: Vision, categories: Sequence[str] | None) -> Tensor | None:
        """Features for the projector, (images, tokens, vision_dim), in place of the backbone's; None leaves them."""
        return None

    def identity(self) -> dict[str, Any]:
        """Everything of the method that can change a score, as JSON values: name, parameters, code fingerprint."""
        parameters = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"name": self.name, "parameters": parameters, "code": code_fingerprint(type(self).__module__, *_ENGINE)}

    def __call__(self, model: Any, processor: Any) -> Run:
        """The context manager that prunes ``model`` while it is open."""
        from clasp.engine import Run  # the one import that points up: it is what makes `with method(model, ...)` work

        return Run(self, model, processor)


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
