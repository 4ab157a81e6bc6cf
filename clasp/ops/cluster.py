"""Coverage: which tokens stand for what the chosen ones leave out."""

from __future__ import annotations

import torch
from torch import Tensor

from clasp.ops.select import cosine, take


def density_peaks(values: Tensor, among: Tensor, neighbours: int = 5) -> Tensor:
    """Density-peak score (DPC-KNN, Rodriguez & Laio 2014 with the kNN density of Du et al. 2016) of each token.

    Density is exp(-mean squared distance to the ``neighbours`` nearest); the score is density times the distance to the
    nearest denser token (for the densest: the largest distance). Distances are Euclidean between unit vectors, so the
    score does not depend on the tokens' norms.

    Args:
        values: (batch, tokens, dim).
        among: (batch, tokens) bool, the tokens that take part; the others neither score nor lend density.

    Returns:
        (batch, tokens) float32, non-negative; 0 for tokens that do not take part.
    """
    distance = (2.0 - 2.0 * cosine(values)).clamp(min=0.0).sqrt()
    tokens = distance.shape[1]
    pair = among[:, :, None] & among[:, None, :]
    off_diagonal = ~torch.eye(tokens, dtype=torch.bool, device=values.device)
    count = (among.sum(dim=1) - 1).clamp(min=1, max=neighbours)

    nearest = distance.masked_fill(~(pair & off_diagonal), float("inf"))
    nearest = nearest.topk(min(neighbours, tokens), dim=-1, largest=False).values
    used = torch.arange(nearest.shape[-1], device=values.device) < count[:, None, None]
    squares = nearest.square().masked_fill(~used | nearest.isinf(), 0.0).sum(dim=-1) / count[:, None]
    density = torch.exp(-squares).masked_fill(~among, -1.0)

    to_denser = _distance_to_denser(distance, density, pair)
    return (density * to_denser).masked_fill(~among, 0.0)


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
    score = density * _distance_to_denser(distance, density, torch.ones_like(distance, dtype=torch.bool))
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


def farthest_point(values: Tensor, chosen: Tensor, keep: int) -> Tensor:
    """Greedy k-center: adds, one by one, the token with the lowest maximal cosine similarity to those chosen so far.

    Gonzalez' algorithm, hence within a factor of two of the best covering radius. With nothing chosen, the first is the
    token that is least similar to the mean token.

    Args:
        values: (batch, tokens, dim).
        chosen: (batch, tokens) bool, the starting set; it may differ in size between batch entries.
        keep: size that every set has in the end; at least the largest starting set.

    Returns:
        (batch, tokens) bool with exactly ``keep`` True per batch entry.
    """
    similarity = cosine(values)
    taken = chosen.clone()
    covered = _coverage(similarity, taken)
    centre = cosine(torch.cat([values, values.float().mean(dim=1, keepdim=True).to(values.dtype)], dim=1))[:, :-1, -1]
    covered = torch.where(taken.any(dim=1, keepdim=True), covered, centre)
    rows = torch.arange(values.shape[0], device=values.device)
    for _ in range(keep - int(taken.sum(dim=1).min())):
        open_rows = taken.sum(dim=1) < keep
        pick = covered.masked_fill(taken, float("inf")).argmin(dim=1)
        first = ~taken.any(dim=1, keepdim=True)
        taken[rows, pick] |= open_rows
        reach = take(similarity, pick[:, None]).squeeze(1)
        covered = torch.where(first, reach, torch.maximum(covered, reach))
    return taken


def similarity_to(values: Tensor, chosen: Tensor) -> Tensor:
    """Highest cosine similarity of each token to the chosen set; -1 where the set is empty.

    Args:
        values: (batch, tokens, dim).
        chosen: (batch, tokens) bool.

    Returns:
        (batch, tokens) float32 in [-1, 1].
    """
    return _coverage(cosine(values), chosen)


def _distance_to_denser(distance: Tensor, density: Tensor, pair: Tensor) -> Tensor:
    """Distance to the nearest denser token; for the densest one the largest distance of all. Only pairs in ``pair``.

    Equal densities are ordered by index, so that of two identical tokens one is the peak and the other is not.
    """
    index = torch.arange(distance.shape[1], device=distance.device)
    denser = (density[:, None, :] > density[:, :, None]) | (
        (density[:, None, :] == density[:, :, None]) & (index[None, None, :] < index[None, :, None])
    )
    to_denser = distance.masked_fill(~(denser & pair), float("inf")).amin(dim=-1)
    furthest = distance.masked_fill(~pair, 0.0).amax(dim=(1, 2))
    return torch.where(to_denser.isinf(), furthest[:, None], to_denser)


def _coverage(similarity: Tensor, chosen: Tensor) -> Tensor:
    return similarity.masked_fill(~chosen[:, None, :], -1.0).amax(dim=-1)
