"""The base class of pruning methods: a frozen dataclass of parameters with one `select` over named ops.

What a method reads and returns is defined in `protocols.py`; the engine does everything else: dropping hidden states,
masks, positions and KV cache.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from clasp.budget import ACCOUNTINGS, Accounting, Budget, BudgetError, Geometry, Schedule, Stage, single_stage
from clasp.methods.parameters import settle
from clasp.methods.protocols import Crops, Patches, Positions, PruningMethod, Scope, Selection, Span, State, Tower

if TYPE_CHECKING:
    from clasp.engine import Run

_ENGINE = "clasp.engine"
"""Code that the answers of every method depend on, beside the backbone's adapter."""
_CLIP_TEXT = "clasp.backbones.clip_text"
"""Code that reads :attr:`Method.towers`. The engine imports it only where one is read, so that a change of it leaves
results of other methods valid."""


@dataclass(frozen=True, kw_only=True)
class Method(PruningMethod, ABC):
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
    label: ClassVar[str] = ""
    """As papers write it; empty: as its class is called."""
    paper: ClassVar[str] = ""
    """Its arXiv number, by which tables are ordered; empty for a baseline."""
    inside: ClassVar[bool] = False
    """Whether it drops visual tokens between decoder layers; the others pass the decoder fewer from the start."""
    convention: ClassVar[Accounting | None] = None
    """What the token counts of its papers mean; None: no source says it."""
    scope: ClassVar[Scope] = "sample"
    """What is ranked together: all visual tokens of a prompt, of one image or video, or of one crop or frame of it.
    With ``crop``, tokens that belong to no crop (newlines) are the first to be dropped."""
    lookback: ClassVar[int] = 0
    """Whose attention and hidden states it reads: those of the decoder layer that is so many before the stage's cut; 0:
    of the first layer behind the cut."""
    reads_cls: ClassVar[bool] = False
    """Whether it ranks by the attention of CLS; :meth:`fallbacks` names the substitute where there is no CLS."""
    weighs_merged: ClassVar[bool] = True
    """Whether the ViT's attention counts a merged patch by how many it stands for (ToMe's proportional attention)."""
    needs_videos: ClassVar[bool] = False
    """Whether it compares the frames of a video; refused on backbones that take none."""
    resizes: ClassVar[bool] = False
    """Whether it makes images smaller before the processor instead of choosing among their tokens; refused where the
    ViT does not take images at their own resolution."""
    own_counts: ClassVar[bool] = False
    """Whether the number of tokens that stay at a stage depends on the data, the schedule stating only its mean:
    :meth:`select` is then called at every stage, also where no more than ``keep`` are left."""
    prunes: ClassVar[bool] = True
    cuts_passed: ClassVar[bool] = False
    """Whether the tokens that a stage drops also leave the KV cache of the layers before it."""
    accountings: ClassVar[tuple[Accounting, ...]] = ACCOUNTINGS
    """Values of ``accounting`` that the method takes, the default first."""
    towers: ClassVar[tuple[str, ...]] = ()
    """Parameters that name a CLIP model (hub id or folder) whose text tower is read; where one is None, the backbone's
    own is read, if it brings one."""
    assumptions: ClassVar[tuple[str, ...]] = ()
    """What this method does that its paper does not state or its official code does differently; :meth:`assumed`
    gives results the list."""

    tokens: int | None = None
    ratio: float | None = None
    accounting: Accounting = "output_average"
    positions: Positions = "original"

    def __post_init__(self) -> None:
        if self.accounting not in self.accountings:
            raise ValueError(
                f"unknown accounting {self.accounting!r} for {self.name}; use one of {', '.join(self.accountings)}"
            )
        if self.prunes:
            Budget(self.tokens, self.ratio)
        elif self.tokens is not None or self.ratio is not None:
            raise BudgetError(f"method {self.name!r} does not prune and takes no budget; leave tokens and ratio out")
        settle(self)

    def target(self, visual_tokens: int) -> int:
        """The budget as a count for one image."""
        return Budget(self.tokens, self.ratio).resolve(visual_tokens)

    def schedule(self, visual_tokens: int, layers: int) -> Schedule:
        """Stages for one image of ``visual_tokens`` tokens over ``layers`` decoder layers; by default a single one,
        before the decoder.

        Raises:
            BudgetError: the budget cannot be met.
        """
        return single_stage(self.target(visual_tokens), visual_tokens, layers, 0, self.accounting)

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
        if geometry.joined_patches and self.merge_layers(geometry.feature_layer):
            raise ValueError(
                f"method {self.name!r} merges patches inside the vision tower, of which several make one visual token "
                f"on this backbone; use another method"
            )
        if self.needs_videos and not geometry.videos:
            raise ValueError(
                f"method {self.name!r} compares the frames of videos, which this backbone does not take; use one that "
                f"does (video_llava_7b, llava_onevision_7b, qwen2_5_vl_7b), or a method for images"
            )
        if self.resizes and not geometry.packed_vision:
            raise ValueError(
                f"method {self.name!r} makes images smaller, while this backbone's ViT takes images or tiles of one "
                f"size; use one of native resolution (qwen2_5_vl_7b, qwen3_vl_8b), or method=pool"
            )
        schedule = self.schedule(geometry.visual_tokens, geometry.layers)
        cuts = [stage.cut for stage in schedule.stages]
        for layer in self.decoder_states(cuts):
            if not 0 <= layer < max(cuts, default=0):
                raise ValueError(
                    f"method {self.name!r} looks at decoder layer {layer}, while its stages are before layers "
                    f"{', '.join(map(str, cuts))}; use layers from 0 to the one before its last stage"
                )
        return schedule

    def fallbacks(self, geometry: Geometry) -> tuple[str, ...]:
        """What takes the place of something that this backbone lacks; stated beside every result."""
        notes: list[str] = []
        if self.reads_cls and not geometry.cls:
            notes.append(f"{self.name}: no CLS token; the attention received from the crop's patches stands in")
        if getattr(self, "with_cls", False) and geometry.cls and geometry.joined_patches:
            notes.append(f"{self.name}: CLS goes through the projector as a square of patches that are all CLS")
        if self.positions == "contiguous" and geometry.multimodal_rotary:
            notes.append(f"{self.name}: multimodal rotary positions are kept; contiguous ones are not defined for them")
        return tuple(notes)

    def assumed(self) -> tuple[str, ...]:
        """:attr:`assumptions`, as far as they concern the method with these parameters; stated beside every result."""
        return self.assumptions

    def vision_states(self, feature_layer: int) -> tuple[int, ...]:
        """Indices of the ViT hidden states (0 = embeddings) that the method reads; only these are stored."""
        return ()

    def span(self) -> Span:
        """Which tokens of the prompt are its text to the method."""
        return "instruction"

    def decoder_states(self, cuts: Sequence[int]) -> tuple[int, ...]:
        """Decoder layers (0-based), beside the stages' own, whose inputs the method reads at its stages; only these are
        stored. By default those that ``lookback`` names; a stage without such a layer before it must not read one.

        Args:
            cuts: the layers that its stages' tokens enter.
        """
        return tuple(cut - self.lookback for cut in cuts if cut >= self.lookback) if self.lookback else ()

    def scope_at(self, stage: Stage) -> Scope:
        """What is ranked together at a stage: :attr:`scope`, unless stages differ."""
        return self.scope

    def allocate(self, image: Crops, keep: int) -> list[int]:
        """Splits an image's budget over its crops (scope ``crop``); by default in proportion to their tokens.

        Returns:
            One count a crop, each at most its tokens, ``keep`` in all.
        """
        return proportional(image.sizes, image.sizes, keep)

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        """ViT layers (0-based) after which the method merges patches inside the vision tower."""
        return ()

    def merge(self, layer: int, patches: Patches) -> Tensor | None:
        """Which patch each patch is merged into after ViT layer ``layer``.

        Returns:
            (crops, patches) long indices into the patches; a patch that stays points at itself, and others may point
            only at one that stays. Merged patches become their size-weighted mean; attention of later ViT layers counts
            them by size where the method :attr:`weighs_merged`. The projector's input has its full length again: every
            patch has the features of the one it was merged into. -1: the patch is dropped, and its features with it.
            None: all stay.
        """
        raise NotImplementedError

    def leading(self, layer: int, patches: Patches) -> Tensor | None:
        """The order in which the patches that :meth:`merge` leaves go through the rest of ViT and decoder.

        Returns:
            (crops, patches) float: by falling value, the lower index of equal ones first; None: the order stays.
        """
        return None

    def weighs(self) -> bool:
        """Whether its selections have :attr:`Selection.sizes`, which flash attention cannot take."""
        return False

    def fuse(self, vision: Tower, category: str | None) -> Tensor | None:
        """Features of one image for the projector, (crops, patches, vision_dim); None leaves the backbone's."""
        return None

    def identity(self, *modules: str, text_tower: str | None = None) -> dict[str, Any]:
        """Everything of the method that can change a score, as JSON values: name, parameters, code fingerprint.

        A model among the parameters is named by what its files hold, not by where they are.

        Args:
            modules: dotted names of further code that its answers pass through (the backbone's adapter).
            text_tower: the CLIP model that the backbone brings; a method that is given none reads that one.
        """
        # here, because their own code changes no answer
        from clasp.backbones.hub import part_fingerprint
        from clasp.fingerprint import code_fingerprint

        parameters = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        given = {name: read for name in self.towers if (read := parameters[name] or text_tower) is not None}
        parameters |= {name: part_fingerprint(source) for name, source in given.items()}
        code = code_fingerprint(type(self).__module__, _ENGINE, *([_CLIP_TEXT] if given else []), *modules)
        return {"name": self.name, "parameters": parameters, "code": code}

    def __call__(self, model: Any, processor: Any) -> Run:
        """The context manager that prunes ``model`` while it is open."""
        from clasp.engine import Run  # here, because planning needs no engine

        return Run(self, model, processor)


def proportional(weights: Sequence[float], limits: Sequence[int], total: int) -> list[int]:
    """Splits ``total`` in proportion to ``weights``, with no part above its limit.

    Shares are rounded down; what that leaves over goes to the parts with the largest remainders, one each.

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
    if hasattr(value, "identity"):  # it reads more than its fields say
        return value.identity()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": getattr(value, "name", type(value).__name__), **fields}
    raise TypeError(f"{type(value).__name__} cannot be part of a method's identity")
