"""Layer fusion: one visual representation from several ViT layers.

CLASP replaces the one fixed ViT layer that the projector reads by a weighted sum over several layers, with weights that
depend on the question's category (abstract and project page of arXiv 2604.12767). Layers, weights and the scale of the
summands are not retrievable by us: each choice here is an ``assumption``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from clasp.methods.clasp.policy import check_weights
from clasp.methods.parameters import settle

NUM_LAYERS = 4
"""Fusion layers by default (assumption)."""

LayerSet = Literal["even", "early", "first_last", "last"]
"""Named sets of fusion layers (ours; the paper's are unknown). Each ends at the backbone's own feature layer.

``even``: evenly spread over all layers; ``early``: evenly spread over the lower half, then the feature layer;
``first_last``: half of them from the lower third, half from the upper third; ``last``: the last ones in a row.
"""


def layer_set(name: LayerSet, feature_layer: int, count: int) -> tuple[int, ...]:
    """The ``count`` hidden-state indices of a named set, on a backbone that reads hidden state ``feature_layer``.

    Raises:
        ValueError: the ViT has too few layers to hold them apart.
    """
    low = count // 2
    places = {
        "even": [(i + 1) / count for i in range(count)],
        "early": [0.5 * (i + 1) / max(1, count - 1) for i in range(count - 1)] + [1.0],
        "first_last": [(i + 1) / (3 * low) for i in range(low)]
        + [1.0 - (count - low - 1 - i) / (3 * (count - low)) for i in range(count - low)],
        "last": [1.0 - (count - 1 - i) / feature_layer for i in range(count)],
    }[name]
    layers = tuple(round(feature_layer * place) for place in places)
    if layers[0] < 1 or len(set(layers)) < count:
        raise ValueError(
            f"{count} fusion layers of the set {name!r} do not fit into the {feature_layer} ViT layers that are read; "
            "use layer_set=last, or fewer weights"
        )
    return layers


@dataclass(frozen=True)
class Fusion:
    """Which ViT hidden states are mixed, and how.

    Args:
        name: for tables.
        weights: mixture weights, shallow to deep, the same for every question; None: the policy's, by category.
        layers: indices into the ViT's hidden states (0 = embeddings), shallow to deep; None: those of ``layer_set``.
        layer_set: a name of :data:`LayerSet`, as many layers as there are weights.
        rescale: bring each layer's features to the mean norm of the backbone's own feature layer before mixing.
    """

    name: str
    weights: tuple[float, ...] | None
    layers: tuple[int, ...] | None = None
    rescale: bool = True
    layer_set: LayerSet = "even"

    def __post_init__(self) -> None:
        settle(self)
        if self.weights is not None:
            check_weights(self.weights)
        if self.layers is not None:
            if self.layer_set != "even":
                raise ValueError(
                    f"fusion layers {list(self.layers)} contradict layer_set={self.layer_set!r}; give one of the two"
                )
            if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
                raise ValueError(f"fusion layers {list(self.layers)} must be distinct, non-negative and increasing")
            if self.weights is not None and len(self.weights) != len(self.layers):
                raise ValueError(f"{len(self.weights)} fusion weights for {len(self.layers)} layers; give one a layer")

    def resolve(self, feature_layer: int, count: int = NUM_LAYERS) -> tuple[int, ...]:
        """Hidden-state indices to mix on a backbone whose projector reads hidden state ``feature_layer``.

        Raises:
            ValueError: a layer lies beyond the feature layer, or there are fewer layers than weights.
        """
        if self.layers is not None:
            if self.layers[-1] > feature_layer:
                raise ValueError(
                    f"fusion layer {self.layers[-1]} lies beyond the backbone's feature layer; use 0 to {feature_layer}"
                )
            return self.layers
        return layer_set(self.layer_set, feature_layer, len(self.weights) if self.weights is not None else count)


# The paper's first figure sweeps five strategies, A (weight on shallow layers) to E (on deep ones); values: assumption.
FUSIONS: dict[str, Fusion] = {
    fusion.name: fusion
    for fusion in (
        Fusion("class_adaptive", None),
        Fusion("shallow", (0.7, 0.2, 0.1, 0.0)),
        Fusion("mid_shallow", (0.4, 0.3, 0.2, 0.1)),
        Fusion("balanced", (0.25, 0.25, 0.25, 0.25)),
        Fusion("mid_deep", (0.1, 0.2, 0.3, 0.4)),
        Fusion("deep", (0.0, 0.0, 0.0, 1.0)),
    )
}


def get_fusion(fusion: str | Fusion) -> Fusion:
    """A fusion by name, or the one given.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(fusion, Fusion):
        return fusion
    if fusion not in FUSIONS:
        raise ValueError(f"unknown fusion {fusion!r}; use one of {', '.join(FUSIONS)}")
    return FUSIONS[fusion]


def fuse(layers: Sequence[Tensor], weights: Tensor, own: Tensor, rescale: bool = True) -> Tensor:
    """Weighted sum of ViT layers, per crop.

    Args:
        layers: hidden states (crops, patches, dim), shallow to deep; ``own`` itself may be among them.
        weights: (crops, layers) float32, each row summing to one.
        own: (crops, patches, dim), the hidden state that the projector reads without fusion.
        rescale: bring each other layer to the mean patch norm of ``own`` first.

    Returns:
        (crops, patches, dim) in the dtype of ``own``.
    """
    target = own.float().norm(dim=-1).mean(dim=1)[:, None, None]
    mixed = own.new_zeros(own.shape, dtype=target.dtype)
    for layer, weight in zip(layers, weights.unbind(dim=1), strict=True):
        features = layer.float()
        if rescale and layer is not own:
            features = features * (target / features.norm(dim=-1).mean(dim=1)[:, None, None].clamp(min=1e-6))
        mixed += features * weight[:, None, None]
    return mixed.to(own.dtype)
