"""The selection ops of :mod:`clasp.ops`, with the arguments that methods pass, compared with one matrix product."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isqrt
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import twins
from benchmarks.models import configuration, geometry_of, spec_of
from benchmarks.settings import BenchmarkSettings
from benchmarks.timing import Advance, peak_bytes, progress, timed
from clasp.ops.attention import attention_received, attention_rows, masked_mean
from clasp.ops.cluster import (
    cluster_means,
    coverage,
    density_centres,
    density_peak_clusters,
    density_peaks,
    farthest_point,
    similarity_to,
)
from clasp.ops.covering import CosineCoverage, SoftmaxCoverage, cover
from clasp.ops.diversity import dpp_map, max_min, take_least_similar
from clasp.ops.grouping import halved_into, mean_cosine, nearest_of, principal_groups, run_means, suppress, within
from clasp.ops.matching import absorb, merge_most_similar, merge_windows, ragged_index, thin
from clasp.ops.select import argmax, cosine_between, take, top_k, top_mask, uniform
from clasp.ops.similarity import Cosines
from clasp.ops.words import raters

PRODUCT = "n x n product"
"""Reference for the ops: (n, width) @ (width, n) in float32."""
HEAD_DIM = 64
WORDS = 32
"""Number of query rows and of instruction words."""
PIVOTS = 8
"""Number of pivots, as in DART."""
ALTERNATED = 5
"""Rounds of a twin and its op per round of the other measurements."""
FRAMES = 8
"""Frames of a video, as in Video-LLaVA."""
WITHIN = 3.0
"""Allowed time of an op, in units of the matrix product's time."""


class Inputs:
    """Random float32 values of one row.

    Args:
        tokens: visual tokens, at least 16.
        width: width of their hidden states, a multiple of :data:`HEAD_DIM`.

    Attributes:
        keep: number of tokens to keep: one in nine, as 64 of 576 and 320 of 2,880; ``kept`` is the same as (1,) long.
        values: (1, tokens, width) hidden states.
        words: (1, words, width).
        scores: (1, tokens), non-negative.
        chosen: (1, tokens) bool: half of the tokens to keep.
        real: (1, tokens) bool, all True.
        index: (1, keep) long.
        keys: (1, tokens, head_dim), like keys of a ViT.
    """

    def __init__(self, tokens: int, width: int, device: torch.device) -> None:
        self.tokens, self.width, self.device, self.keep = tokens, width, device, tokens // 9
        self.kept = self.count(self.keep)
        self.values, self.words = self.noise(tokens, width), self.noise(WORDS, width)
        self.scores = self.noise(tokens).abs()
        self.chosen = top_mask(self.scores, self.count(max(1, self.keep // 2)))
        self.real = torch.ones(1, tokens, dtype=torch.bool, device=device)
        self.index = top_k(self.scores, self.keep)
        self.keys = self.noise(tokens, HEAD_DIM)

    def noise(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, *shape, generator=generator).to(self.device)

    def count(self, number: int) -> Tensor:
        """(1,) long."""
        return torch.tensor([number], device=self.device)

    def heads(self, rows: int) -> Tensor:
        """(1, heads, rows, head_dim) queries or keys; heads = width / head_dim."""
        return self.noise(self.width // HEAD_DIM, rows, HEAD_DIM)


Call = Callable[[], Any]


def _attention_rows(on: Inputs) -> Call:
    query, key = on.heads(WORDS), on.heads(on.tokens)
    allowed = torch.ones(1, WORDS, on.tokens, dtype=torch.bool, device=on.device)
    return lambda: attention_rows(query, key, allowed, HEAD_DIM**-0.5)


def _masked_mean(on: Inputs) -> Call:
    values, mask = on.noise(WORDS, on.tokens), torch.ones(1, WORDS, dtype=torch.bool, device=on.device)
    return lambda: masked_mean(values, mask)


def _attention_received(on: Inputs) -> Call:
    query, key = on.heads(on.tokens), on.heads(on.tokens)
    return lambda: attention_received(query, key, HEAD_DIM**-0.5)


def _density_peak_clusters(on: Inputs) -> Call:
    """As in SparseVLM: a tenth of the tokens are centres, and the density uses the same number of neighbours."""
    values, noise, clusters = on.values, 1e-6 * on.scores, on.tokens // 10 + 1
    return lambda: density_peak_clusters(values, clusters, clusters, noise)


def _cluster_means(on: Inputs) -> Call:
    clusters = on.tokens // 10 + 1
    values, members = on.values, (torch.arange(on.tokens, device=on.device) % clusters)[None]
    return lambda: cluster_means(values, members, clusters)


def _take_least_similar(on: Inputs) -> Call:
    pivots, values, taken = on.values[:, :PIVOTS], on.values, torch.zeros_like(on.real)
    quotas = on.count(on.keep // PIVOTS).expand(1, PIVOTS)
    return lambda: take_least_similar(cosine_between(pivots, values), taken, quotas)


def _merge_windows(on: Inputs) -> Call:
    """As in MustDrop: 3 x 3 windows of a grid that is as square as the count allows."""
    columns = isqrt(on.tokens)
    grid, places = (-(-on.tokens // columns), columns), torch.arange(on.tokens, device=on.device)[None]
    return lambda: merge_windows(on.values, on.real, places, grid, 3, 0.8)


def _raters(on: Inputs) -> Call:
    real = torch.ones(1, WORDS, dtype=torch.bool, device=on.device)
    return lambda: raters(on.values, on.words, real)


def _cover(on: Inputs) -> Call:
    """As in MMTok, which includes SCOPE's rule: covers words and tokens, by softmax over tokens."""
    real, weight = torch.ones(1, WORDS, dtype=torch.bool, device=on.device), torch.ones_like(on.scores)
    return lambda: cover(SoftmaxCoverage(on.words, real, on.values, on.values, 0.02, 0.2, 0.5), weight, on.keep)


def _groups(on: Inputs) -> tuple[Tensor, Tensor]:
    """(1, tokens) and (1, groups) long: group of each token and sizes of the groups; one group per four kept tokens."""
    count = max(1, on.keep // 4)
    group = torch.arange(on.tokens, device=on.device)[None] % count
    return group, torch.bincount(group[0], minlength=count)[None]


def _suppress(on: Inputs) -> Call:
    group, sizes = _groups(on)
    held, threshold = sizes.cpu(), torch.zeros(1, device=on.device)
    return lambda: suppress(Cosines(on.values), group, held, on.scores, threshold)


def _within(on: Inputs) -> Call:
    group, sizes = _groups(on)
    order = on.scores.argsort(dim=1)
    return lambda: within(group, sizes, order)


def _run_means(on: Inputs) -> Call:
    """As in FrameFusion, for a video of eight identical frames."""
    joins = (torch.arange(on.tokens, device=on.device) % FRAMES > 0)[None]
    return lambda: run_means(on.values, joins, FRAMES)


def _argmax(on: Inputs) -> Call:
    """Of every token's cosines to all others."""
    cosines = on.noise(on.tokens, on.tokens)
    return lambda: argmax(cosines)


OPS: dict[str, Callable[[Inputs], Call]] = {
    "attention_rows": _attention_rows,
    "masked_mean": _masked_mean,
    "attention_received": _attention_received,
    "density_peaks": lambda on: lambda: density_peaks(Cosines(on.values), ~on.chosen),
    "density_peak_clusters": _density_peak_clusters,
    "density_centres": lambda on: lambda: density_centres(Cosines(on.values), on.keep, 2.0),
    "cluster_means": _cluster_means,
    "farthest_point": lambda on: lambda: farthest_point(on.values, Cosines(on.values), on.chosen, on.keep),
    "similarity_to": lambda on: lambda: similarity_to(Cosines(on.values), on.chosen),
    "coverage": lambda on: lambda: coverage(on.values, Cosines(on.values), on.chosen),
    "max_min": lambda on: lambda: max_min(on.values, on.keep),
    "cover": _cover,
    "principal_groups": lambda on: lambda: principal_groups(on.values, max(1, on.keep // 4), [0]),
    "suppress": _suppress,
    "mean_cosine": lambda on: lambda: mean_cosine(Cosines(on.values)),
    "within": _within,
    "run_means": _run_means,
    "halved_into": lambda on: lambda: halved_into(on.values, on.index),
    "nearest_of": lambda on: lambda: nearest_of(on.values, on.index),
    "dpp_map": lambda on: lambda: dpp_map(Cosines(on.values), on.scores, on.keep),
    "take_least_similar": _take_least_similar,
    "merge_most_similar": lambda on: lambda: merge_most_similar(on.values, [on.keep]),
    "thin": lambda on: lambda: thin(on.values, on.keep, 8),
    "merge_windows": _merge_windows,
    "absorb": lambda on: lambda: absorb(on.values, on.values, on.scores, on.index, 32),
    "ragged_index": lambda on: lambda: ragged_index(on.chosen, on.keep),
    "top_k": lambda on: lambda: top_k(on.scores, on.keep),
    "argmax": _argmax,
    "top_mask": lambda on: lambda: top_mask(on.scores, on.kept),
    "take": lambda on: lambda: take(on.values, on.index),
    "cosine_between": lambda on: lambda: cosine_between(on.values[:, :PIVOTS], on.values),
    "uniform": lambda on: lambda: uniform([0], on.tokens),
    "raters": _raters,
}
"""Op -> a function that returns its call. If an op takes the cosines of all pairs, the call also computes them, as a
method does."""


TWINS: dict[str, Callable[[Inputs], tuple[Call, Call]]] = {
    "ToMe's matching": lambda on: (
        lambda: twins.bipartite_matching(on.keys, on.keep),
        lambda: merge_most_similar(on.keys, [on.keep]),
    ),
    "top-k with gathering": lambda on: (
        lambda: twins.top_tokens(on.scores, on.values, on.keep),
        lambda: take(on.values, top_k(on.scores, on.keep)),
    ),
    "SCOPE's coverage": lambda on: (
        lambda: twins.greedy_coverage(on.values, on.scores, on.keep),
        lambda: cover(CosineCoverage(on.values), on.scores, on.keep),
    ),
    "DivPrune's max-min": lambda on: (
        lambda: twins.farthest_tokens(on.values, on.keep),
        lambda: max_min(on.values, on.keep),
    ),
}
"""Step of official code -> a function that returns its call (from :mod:`benchmarks.twins`) and the call of our op."""


HELPERS = ("attention_probabilities", "blocks", "density_peak_scores", "nearest", "products")
"""Helper functions of :mod:`clasp.ops`: parts of other ops, not selection rules."""


def call(name: str, on: Inputs) -> Call:
    """The op's call, or the product's."""
    return (lambda: on.values @ on.values.transpose(-1, -2)) if name == PRODUCT else OPS[name](on)


def run(settings: BenchmarkSettings, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Compares every op with one matrix product of its size, at every size, in float32; returns JSON values."""
    width = geometry_of(configuration(spec_of(settings.geometry))).hidden
    steps = (len(OPS) + 1) * (settings.rounds + 1) + len(TWINS)
    with progress(len(settings.counts) * steps) as advance:
        sizes = {str(n): against_product(n, width, device, settings.rounds, advance) for n in settings.counts}
        official = {str(n): against_twins(n, width, device, settings.rounds, advance) for n in settings.counts}
    return {"width": width, "sizes": sizes, "twins": official}


@torch.inference_mode()
def against_product(
    tokens: int, width: int, device: torch.device, repeats: int, advance: Advance
) -> list[dict[str, Any]]:
    """Times every op and the product of its size, in ``repeats`` rounds of random order after an untimed round.

    Returns:
        One row per op, the product first: median ms, ``ratio`` to the product's, whether that is ``within`` three, and
        ``peak_bytes`` without the inputs.
    """
    orders, on = random.Random(0), Inputs(tokens, width, device)
    calls = {name: call(name, on) for name in (PRODUCT, *OPS)}
    peaks, seconds = {}, {name: list[float]() for name in calls}
    for name in calls:
        advance(name)
        peaks[name] = peak_bytes(calls[name], device)
    for _ in range(repeats):
        for name in orders.sample(list(calls), len(calls)):
            advance(name)
            seconds[name].append(timed(calls[name], device))
    base, rows = median(seconds[PRODUCT]), []
    for name in calls:
        ratio = median(seconds[name]) / base
        row = {"name": name, "ms": 1e3 * median(seconds[name]), "ratio": ratio, "within": ratio <= WITHIN}
        rows.append({**row, "peak_bytes": peaks[name]})
    return rows


@torch.inference_mode()
def against_twins(tokens: int, width: int, device: torch.device, rounds: int, advance: Advance) -> list[dict[str, Any]]:
    """Times every twin and its op alternately, in more rounds than other ops because the calls are short.

    Returns:
        One row per twin: median ms of both, and ``ratio``, the twin's to the op's.
    """
    on, rows = Inputs(tokens, width, device), []
    for name, made in TWINS.items():
        advance(name)
        calls = made(on)
        seconds: tuple[list[float], list[float]] = ([], [])
        for each in range(ALTERNATED * rounds + 1):
            for place in (0, 1) if each % 2 else (1, 0):
                seconds[place].append(timed(calls[place], device))
        theirs, ours = (median(part[1:]) for part in seconds)
        rows.append({"name": name, "official_ms": 1e3 * theirs, "ms": 1e3 * ours, "ratio": theirs / ours})
    return rows
