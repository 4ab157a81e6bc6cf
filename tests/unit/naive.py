"""Random values, and naive references in plain Python, written from definitions: slow, and of one picture each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor


def cloud(batch: int, tokens: int, seed: int, dim: int = 6) -> Tensor:
    """(batch, tokens, dim), normally distributed."""
    return torch.randn(batch, tokens, dim, generator=torch.Generator().manual_seed(seed))


def crowd(tokens: int, seed: int, kind: str = "random") -> Tensor:
    """(tokens, 6) values: random ones, duplicates among them, or zero vectors among them."""
    values = cloud(1, tokens, seed)[0]
    if kind == "duplicates":
        values[tokens // 2 :] = values[0]
    if kind == "zeros":
        values[::3] = 0.0
    return values


clouds = st.builds(crowd, st.integers(1, 14), st.integers(0, 10**6), st.sampled_from(["random", "duplicates", "zeros"]))


def dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def cos(a: Tensor, b: Tensor) -> float:
    """Zero where one of the two is zero."""
    norm = float(a.double().norm()) * float(b.double().norm())
    return dot(a, b) / norm if norm else 0.0


def distinct(values: Tensor) -> bool:
    """Whether no two cosines are so close that rounding decides between them."""
    cosines = sorted(cos(a, b) for a, b in itertools.combinations(values, 2))
    return all(b - a > 1e-5 for a, b in itertools.pairwise(cosines))


def softmax(logits: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(logits)) for value in logits]
    return [power / sum(powers) for power in powers]


def rising(scores: Any) -> list[int]:
    """Indices by rising score; of equal ones the lower index first."""
    return sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))


def falling(scores: Any) -> list[int]:
    """Indices by falling score; of equal ones the lower index first."""
    return sorted(range(len(scores)), key=lambda i: (-float(scores[i]), i))


def highest(scores: Any, keep: int) -> list[int]:
    """The places of the highest scores, of equal ones the first; ascending."""
    return sorted(falling(scores)[:keep])


def filled(kept: Collection[int], order: Iterable[int], keep: int) -> list[int]:
    """The kept places and the first others in that order, ``keep`` in all; ascending."""
    others = [i for i in order if i not in kept]
    return sorted([*kept, *others[: max(0, keep - len(kept))]])


def nearest(
    centres: Sequence[int], others: Iterable[int], likeness: Callable[[int, int], float]
) -> dict[int, list[int]]:
    """Of each centre those of the others that are most like it; of equal centres the first one counts."""
    groups: dict[int, list[int]] = {centre: [] for centre in centres}
    for i in others:
        groups[max(centres, key=lambda centre, i=i: likeness(i, centre))].append(i)
    return groups


def naive_density_peaks(values: Tensor, among: list[bool], neighbours: int) -> tuple[list[float], dict[int, float]]:
    members = [i for i, used in enumerate(among) if used]
    exact = values.double()
    distance = {(i, j): math.sqrt(max(0.0, 2 - 2 * cos(exact[i], exact[j]))) for i in members for j in members}
    density = {}
    for i in members:
        nearest = sorted(distance[i, j] for j in members if j != i)[:neighbours]
        density[i] = math.exp(-sum(d * d for d in nearest) / max(1, len(nearest)))
    scores = [0.0] * len(among)
    for i in members:
        denser = [j for j in members if density[j] > density[i]]
        reach = min((distance[i, j] for j in denser), default=max(distance.values()))
        scores[i] = density[i] * reach
    return scores, density


def naive_farthest(values: Tensor, chosen: list[int], keep: int) -> list[int]:
    chosen = list(chosen)
    while len(chosen) < keep:
        free = [i for i in range(len(values)) if i not in chosen]
        if chosen:
            chosen.append(min(free, key=lambda i: max(cos(values[i], values[j]) for j in chosen)))
        else:
            mean = values.mean(dim=0)
            chosen.append(min(free, key=lambda i: cos(values[i], mean)))
    return sorted(chosen)


def naive_clusters(
    values: Tensor, clusters: int, neighbours: int, added: list[float]
) -> tuple[list[int], list[int], list[Tensor]]:
    """Centres by falling score, the cluster of each token, and the clusters' means."""
    rows = values.double()
    tokens = range(len(rows))
    distance = [[math.sqrt(float((rows[i] - rows[j]).square().mean())) for j in tokens] for i in tokens]
    density = []
    for i in tokens:
        nearest = sorted(distance[i])[:neighbours]
        density.append(math.exp(-sum(d * d for d in nearest) / neighbours) + added[i])
    furthest = max(max(row) for row in distance)
    score = [
        density[i] * min((distance[i][j] for j in tokens if density[j] > density[i]), default=furthest) for i in tokens
    ]
    centres = sorted(tokens, key=lambda i: -score[i])[:clusters]
    members = [
        centres.index(i) if i in centres else min(range(clusters), key=lambda c: distance[i][centres[c]])
        for i in tokens
    ]
    means = [torch.stack([rows[i] for i in tokens if members[i] == c]).mean(dim=0) for c in range(clusters)]
    return centres, members, means


def naive_centres(keys: Tensor, cutoff: float) -> list[int]:
    """DBDPC: by falling density, each token that is further than the cutoff from all centres so far."""
    far = [[max(0.0, 1 - cos(a, b)) for b in keys] for a in keys]
    density = [sum(math.exp(-((d / 2) ** 2)) for d in row) for row in far]
    centres: list[int] = []
    for i in falling(density):
        if all(far[i][c] > cutoff for c in centres):
            centres.append(i)
    return centres


def naive_cover(rows: list[list[float]], weight: list[float], keep: int, least: float = -math.inf) -> list[int]:
    """Greedy: of each row the largest value that is chosen counts, zero at least; ends below a gain of ``least``."""
    covered, chosen = [0.0] * len(rows), list[int]()
    while len(chosen) < keep:
        gains = {
            j: weight[j] * sum(max(0.0, row[j] - best) for row, best in zip(rows, covered, strict=True))
            for j in range(len(weight))
            if j not in chosen
        }
        pick = max(gains, key=gains.__getitem__)
        if gains[pick] < least:
            break
        chosen.append(pick)
        covered = [max(best, row[pick]) for row, best in zip(rows, covered, strict=True)]
    return sorted(chosen)


def naive_dpp(kernel: Tensor, keep: int) -> list[int]:
    """The order in which greedy search picks from a kernel (tokens, tokens): the largest determinant at every step."""
    chosen: list[int] = []
    while len(chosen) < keep:
        free = [i for i in range(len(kernel)) if i not in chosen]
        chosen.append(max(free, key=lambda i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]]))))
    return chosen


def naive_raters(visual: Tensor, words: Tensor, real: list[bool]) -> list[int]:
    used = [w for w, is_real in enumerate(real) if is_real]
    relevance = dict.fromkeys(used, 0.0)
    for token in visual.double():
        products = [float(token @ words[w].double()) for w in used]
        powers = [math.exp(p - max(products)) for p in products]
        for w, power in zip(used, powers, strict=True):
            relevance[w] += power / sum(powers) / len(visual)
    mean = sum(relevance.values()) / max(1, len(used))
    return [w for w in used if relevance[w] > mean + 1e-9] or used


def naive_thin(values: Tensor, keep: int, step: int) -> list[int]:
    left = list(range(len(values)))
    while len(left) > keep:
        first, second = left[::2], left[1::2]
        ranked = sorted(first, key=lambda i: -max(cos(values[i], values[j]) for j in second))
        left = ranked[min(step, len(left) - keep, len(left) // 2) :] + second
    return left


def naive_windows(values: Tensor, real: list[bool], grid: tuple[int, int], side: int, threshold: float) -> Any:
    merged, similarity = list(range(len(values))), [-math.inf] * len(values)
    for top, left in itertools.product(range(0, grid[0], side), range(0, grid[1], side)):
        cells = [r * grid[1] + c for r in range(top, top + side) for c in range(left, left + side) if c < grid[1]]
        inside = [i for i in cells if i < len(values) and real[i]]
        pairs = [cos(values[i], values[j]) for i, j in itertools.combinations(inside, 2)]
        if pairs and sum(pairs) / len(pairs) >= threshold:
            for i in inside:
                merged[i], similarity[i] = inside[0], sum(pairs) / len(pairs)
    return merged, similarity
