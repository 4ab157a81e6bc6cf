"""Coverage: which tokens stand for what the chosen ones leave out."""

from __future__ import annotations

import torch
from torch import Tensor

from clasp.ops.select import cosine_between, take, top_k


def density_peaks(similarity: Tensor, among: Tensor, neighbours: int = 5) -> Tensor:
    """Density-peak score (DPC-KNN, Rodriguez & Laio 2014 with the kNN density of Du et al. 2016) of each token.

    Density is exp(-mean squared distance to the ``neighbours`` nearest); the score is density times the distance to the
    nearest denser token (for the densest: the largest distance). Distances are Euclidean between unit vectors, so the
    score does not depend on the tokens' norms.

    Args:
        similarity: (batch, tokens, tokens) float32, cosine of all pairs (:func:`clasp.ops.select.cosine`).
        among: (batch, tokens) bool, the tokens that take part; the others neither score nor lend density.

    Returns:
        (batch, tokens) float32, non-negative; 0 for tokens that do not take part.
    """
    # the distance falls with the similarity, so that neighbours are found by the latter and only theirs are computed
    outside = torch.zeros_like(among, dtype=torch.float32).masked_fill(~among, float("inf"))[:, None, :]
    others = similarity - outside
    others.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
    count = (among.sum(dim=1) - 1).clamp(min=1, max=neighbours)

    nearest = _chord(others.topk(min(neighbours, others.shape[1]), dim=-1).values)
    used = torch.arange(nearest.shape[-1], device=nearest.device) < count[:, None, None]
    squares = nearest.square().masked_fill(~used | nearest.isinf(), 0.0).sum(dim=-1) / count[:, None]
    density = torch.exp(-squares).masked_fill(~among, -1.0)

    furthest = (similarity + outside).amin(dim=-1).masked_fill(~among, float("inf")).amin(dim=1, keepdim=True)
    denser = _closest_denser(others, density)
    reach = _chord(torch.where(denser.isinf(), furthest, denser))
    return (density * reach).masked_fill(~among, 0.0)


def density_peak_clusters(values: Tensor, clusters: int, neighbours: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """DPC-KNN clusters as token-merging methods use them: the tokens with the highest scores are centres.

    Density is exp(-mean squared distance to the ``neighbours`` nearest, the token itself among them) plus ``noise``;
    the score is density times the distance to the nearest denser token (for the densest: the largest distance). Every
    other token joins the nearest centre. Distances are Euclidean over sqrt(dim), so norms count, unlike in
    :func:`density_peaks`.

    Args:
        values: (batch, tokens, dim).
        clusters: from 1 to tokens.
        neighbours: from 1 to tokens.
        noise: (batch, tokens), small; keeps densities distinct.

    Returns:
        (batch, clusters) long, the centres by falling score, and (batch, tokens) long, the place of each token's centre
        among them.
    """
    # without the matrix-product shortcut, whose rounding would tear identical tokens apart
    distance = torch.cdist(values.float(), values.float(), compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance * values.shape[-1] ** -0.5
    density = torch.exp(-distance.topk(neighbours, dim=-1, largest=False).values.square().mean(dim=-1)) + noise
    denser = _closest_denser(-distance, density)
    score = density * torch.where(denser.isinf(), distance.amax(dim=(1, 2))[:, None], -denser)
    centres = score.argsort(dim=1, descending=True, stable=True)[:, :clusters]
    members = take(distance, centres).argmin(dim=1)
    # a token that equals an earlier centre would join that one and leave its own cluster empty
    places = torch.arange(clusters, device=values.device).expand_as(centres)
    return centres, members.scatter(1, centres, places)


def cluster_means(values: Tensor, members: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster's tokens, summed in float32.

    Args:
        values: (batch, tokens, dim).
        members: (batch, tokens) long, the cluster of each token; no cluster is empty.

    Returns:
        (batch, clusters, dim) in the type of ``values``.
    """
    weights = torch.nn.functional.one_hot(members, clusters).float()
    means = weights.transpose(-1, -2) @ values.float() / weights.sum(dim=1)[..., None]
    return means.to(values.dtype)


def farthest_point(values: Tensor, similarity: Tensor, chosen: Tensor, keep: int) -> Tensor:
    """Greedy k-center: adds, one by one, the token with the lowest maximal cosine similarity to those chosen so far.

    Gonzalez' algorithm, hence within a factor of two of the best covering radius. With nothing chosen, the first is the
    token that is least similar to the mean token.

    Args:
        values: (batch, tokens, dim).
        similarity: (batch, tokens, tokens) float32, cosine of all pairs of ``values``.
        chosen: (batch, tokens) bool, the starting set; it may differ in size between batch entries.
        keep: size that every set has in the end; at least the largest starting set.

    Returns:
        (batch, tokens) bool with exactly ``keep`` True per batch entry.
    """
    taken = chosen.clone()
    covered = coverage(values, similarity, taken)
    rows = torch.arange(values.shape[0], device=values.device)
    for _ in range(keep - int(taken.sum(dim=1).min())):
        open_rows = taken.sum(dim=1) < keep
        pick = covered.masked_fill(taken, float("inf")).argmin(dim=1)
        first = ~taken.any(dim=1, keepdim=True)
        taken[rows, pick] |= open_rows
        reach = take(similarity, pick[:, None]).squeeze(1)
        covered = torch.where(first, reach, torch.maximum(covered, reach))
    return taken


def similarity_to(similarity: Tensor, chosen: Tensor) -> Tensor:
    """Highest cosine similarity of each token to the chosen set; -1 where the set is empty.

    Args:
        similarity: (batch, tokens, tokens) float32, cosine of all pairs.
        chosen: (batch, tokens) bool.

    Returns:
        (batch, tokens) float32 in [-1, 1].
    """
    # rows of the chosen rather than columns of all: fewer, and each in one piece of memory
    index = top_k(chosen.int(), max(1, int(chosen.sum(dim=1).max())))
    rows = take(similarity, index).masked_fill(~chosen.gather(1, index)[..., None], -1.0)
    return rows.amax(dim=1)


def coverage(values: Tensor, similarity: Tensor, chosen: Tensor) -> Tensor:
    """As :func:`similarity_to`, but where the set is empty, the cosine similarity of each token to the mean token.

    Args:
        values: (batch, tokens, dim).
        similarity: (batch, tokens, tokens) float32, cosine of all pairs of ``values``.
        chosen: (batch, tokens) bool.

    Returns:
        (batch, tokens) float32 in [-1, 1].
    """
    mean = values.float().mean(dim=1, keepdim=True)
    centre = cosine_between(values, mean).squeeze(2)
    return torch.where(chosen.any(dim=1, keepdim=True), similarity_to(similarity, chosen), centre)


def _chord(similarity: Tensor) -> Tensor:
    """Euclidean distance of unit vectors with that cosine similarity."""
    return (2.0 - 2.0 * similarity).clamp(min=0.0).sqrt()


def _closest_denser(closeness: Tensor, density: Tensor) -> Tensor:
    """Closeness of each token to the closest denser one; -inf for the densest.

    Equal densities are ordered by index, so that of two identical tokens one is the peak and the other is not.

    Args:
        closeness: (batch, tokens, tokens), higher for closer.
        density: (batch, tokens).

    Returns:
        (batch, tokens).
    """
    rank = density.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return closeness.masked_fill(rank[:, None, :] >= rank[:, :, None], float("-inf")).amax(dim=-1)
