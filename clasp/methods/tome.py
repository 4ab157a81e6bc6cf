"""ToMe: merge the most similar patches inside the ViT, some after each layer.

Bolya et al., "Token Merging: Your ViT But Faster", arXiv 2210.09461. In each layer the patches are dealt alternately to
two sides; each of the first side finds its most similar one of the second (cosine of head-mean keys), and the r most
similar pairs become one patch, the size-weighted mean. Attention counts a patch by its size. The decoder gets what is
left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from clasp.methods.base import Method
from clasp.methods.protocols import Patches, Positions, Scope, Selection, State
from clasp.ops.matching import merge_most_similar, ragged_index


@dataclass(frozen=True, kw_only=True)
class ToMe(Method):
    """ToMe (arXiv 2210.09461, section 3); the budget sets r, so it has no parameters of its own."""

    name: ClassVar[str] = "tome"
    paper: ClassVar[str] = "2210.09461"
    scope: ClassVar[Scope] = "crop"
    assumptions: ClassVar[tuple[str, ...]] = (
        "how the published LLaVA rows applied ToMe is stated nowhere: merged inside the ViT, after each block, up to "
        "the layer that the projector reads",
        "ToMe merges after a block rather than between its attention and its MLP",
        "ToMe's sides are dealt anew in raster order in each layer, from the first patch on; its code counts CLS, so "
        "that the first patch is on the other side, and deals what it left in the order of its last merge",
        "ToMe's r is the smallest constant that reaches the budget; what merged stands at its first patch's place",
    )
    positions: Positions = "contiguous"  # what the ViT merges never enters a sequence

    def merge_layers(self, feature_layer: int) -> tuple[int, ...]:
        return tuple(range(feature_layer))

    def merge(self, layer: int, patches: Patches) -> Tensor:
        real = patches.sizes > 0
        left = real.sum(dim=1).tolist()
        counts = [merges(count, patches.keep, patches.remaining) for count in left]
        return merge_most_similar(patches.keys, counts, None if min(left) == real.shape[1] else real)

    def select(self, state: State, keep: int) -> Selection:
        index, valid = ragged_index(state.vision().representatives(), keep)
        return Selection(index, valid=valid)


def merges(patches: int, keep: int, layers: int) -> int:
    """How many of ``patches`` to merge in the first of ``layers`` layers, to end with ``keep``.

    That is the smallest constant number that gets there. A layer merges at most half of its patches, so where this
    binds in the last layers, more is merged in the first. Where even halving in every layer is too slow, half.
    """
    excess = patches - keep
    for r in range(max(0, -(-excess // layers)), patches // 2):
        left = patches
        for _ in range(layers):
            left -= min(r, left // 2)
        if left <= keep:
            return min(r, max(0, excess))
    return min(patches // 2, max(0, excess))
