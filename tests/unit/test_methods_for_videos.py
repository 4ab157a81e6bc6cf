"""Methods that compare the frames of a video, against plain loops written from what the official code does."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from fakes import LLAVA, FakeState, rows_of
from naive import cos, falling, highest, naive_clusters, nearest, rising, softmax
from torch import Tensor

from clasp.budget import Stage
from clasp.methods import METHODS, for_images
from clasp.methods.evs import EVS
from clasp.methods.fastvid import FastVID
from clasp.methods.framefusion import FrameFusion, last_stage
from clasp.methods.holitom import HoliTom, segments
from clasp.methods.protocols import Selection
from clasp.methods.vidcom2 import VidCom2

FRAMES, SIZE = 6, 10
VIDEOS = replace(LLAVA, videos=True, dynamic=True)


def state_of(seed: int = 0, rows: int = 2, loose: int = 0, frames: int = FRAMES, size: int = SIZE) -> FakeState:
    """Frames that resemble the ones before them, more or less."""
    state = FakeState(rows, frames * size + loose, seed, stage=Stage(0, 1))
    state.clip = (frames, size)
    draw, video = torch.Generator().manual_seed(seed + 50), videos(state)
    for frame in range(1, frames):
        share = torch.rand(rows, size, 1, generator=draw)
        video[:, frame] = share * video[:, frame - 1] + (1.0 - share) * video[:, frame]
    return state


def videos(state: FakeState) -> Tensor:
    """(rows, frames, size, dim) tokens."""
    frames, size = state.clip or (1, state.visual_tokens)
    return state.visual_hidden[:, : frames * size].unflatten(1, (frames, size))


def test_methods_for_videos_are_known() -> None:
    assert set(METHODS) - set(for_images()) == {"evs", "vidcom2", "fastvid", "holitom", "framefusion", "downsample"}


@pytest.mark.parametrize("method", [EVS, VidCom2, FastVID, HoliTom, FrameFusion])
def test_a_backbone_without_videos_is_refused_by_name_with_a_remedy(method: Any) -> None:
    with pytest.raises(ValueError, match=f"{method.name!r} compares the frames of videos.*video_llava_7b.*for images"):
        method(tokens=64).check(LLAVA)
    assert method(tokens=64).check(VIDEOS).token_counts().output_average == pytest.approx(64, abs=1)
    assert any("image" in note for note in method(tokens=64).assumed()), "it says what it does to an image"


def evs_in_loops(video: Tensor, ratio: float) -> list[int]:
    """As vLLM's compute_retention_mask."""
    frames, size, _ = video.shape
    differs = [255.0] * size
    for before, frame in pairwise(video):
        differs += [1.0 - cos(one, other) for one, other in zip(before, frame, strict=True)]
    return highest(differs, max(size, int(frames * size * (1.0 - ratio))))


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.9])
def test_evs_keeps_the_first_frame_and_what_differs_most(ratio: float) -> None:
    state, method = state_of(), EVS(ratio=ratio)
    keep = method.schedule(FRAMES * SIZE, 12).stages[0].keep
    assert rows_of(method.select(state, keep)) == [evs_in_loops(video, ratio) for video in videos(state)]


def test_evs_keeps_pictures_whole() -> None:
    assert EVS(tokens=5).select(FakeState(2, 17), 5).index.tolist() == [list(range(17))] * 2


def vidcom2_in_loops(video: Tensor) -> tuple[list[float], list[list[float]]]:
    """Per frame its rate for a base of one; per frame and token the sum of its nearness to both centres."""
    variances = video.flatten(0, 1).double().var(dim=0, unbiased=False)
    read = rising(variances)[: int(len(variances) * 0.5)]
    unit = torch.nn.functional.normalize(video[..., read].double(), dim=-1)

    def near(token: Tensor, centre: Tensor) -> float:
        square = float((token - centre).square().sum())
        return sum(math.exp(-square / (2.0 * 2.0**power)) for power in range(-3, 2))

    of_video = [[near(token, unit.mean(dim=(0, 1))) for token in frame] for frame in unit]
    of_frame = [[near(token, frame.mean(dim=0)) for token in frame] for frame in unit]
    odd = softmax([-sum(row) / len(row) / 0.01 for row in of_video])
    rates = [1.0 + value - 1.0 / len(video) for value in odd]
    return rates, (torch.tensor(of_video) + torch.tensor(of_frame)).tolist()


@pytest.mark.parametrize("keep", [6, 15, 30, 48])
def test_vidcom2_shares_by_rates_and_keeps_what_stands_out(keep: int) -> None:
    state = state_of(3)
    base = keep / (FRAMES * SIZE)
    for chosen, video in zip(rows_of(VidCom2(tokens=keep).select(state, keep)), videos(state), strict=True):
        rates, scores = vidcom2_in_loops(video)
        kept = [[i - f * SIZE for i in chosen if i // SIZE == f] for f in range(FRAMES)]
        for own, rate, values in zip(kept, rates, scores, strict=True):
            if base * max(rates) < 1.0:
                assert abs(len(own) - base * rate * SIZE) < 1.0, "the official count, but for rounding"
            assert own == sorted(rising(values)[: len(own)])
        assert len({len(own) for own in kept}) > 1 or keep == FRAMES, "frames differ"


def cuts_in_loops(video: Tensor, count: int, threshold: float) -> list[list[int]]:
    """The frames of each segment."""
    alike = [cos(one, other) for one, other in pairwise(video.mean(dim=1))]
    cut = {*rising(alike)[: count - 1], *(frame for frame, value in enumerate(alike) if value < threshold)}
    parts: list[list[int]] = [[]]
    for frame in range(len(video)):
        parts[-1].append(frame)
        if frame in cut:
            parts.append([])
    return parts


def fastvid_in_loops(
    video: Tensor, attention: Tensor, parts: list[list[int]], each: int, step: int
) -> dict[int, Tensor]:
    """What stays of a video whose counts divide, by place: as the official LLaVA-OneVision code."""
    tokens, size, context = video.flatten(0, 1), video.shape[1], int(each * 0.4)
    kept: dict[int, Tensor] = {}
    rest: dict[int, list[int]] = {}
    for frame, scores in enumerate(attention):
        top = falling(scores)[: each - context]
        kept |= {frame * size + i: video[frame, i] for i in top}
        rest[frame] = [frame * size + i for i in range(size) if i not in top]
    for part in parts:
        anchored = [frame for frame in part if (part[-1] - frame) % step == 0]
        count = len(part) * context // len(anchored)
        pool = [place for frame in part for place in rest[frame]]
        for frame in anchored:
            values = tokens[rest[frame]]  # density peaks without the official noise
            peaks, *_ = naive_clusters(values, count, min(4, len(values)), [0.0] * len(values))
            anchors = [rest[frame][i] for i in peaks]
            for anchor, members in nearest(anchors, pool, lambda i, a: cos(tokens[i], tokens[a])).items():
                own = max(1.0 / (len(members) + 1), 0.6)
                kept[anchor] = own * tokens[anchor] + (1.0 - own) * tokens[members].mean(dim=0)
    return kept


@pytest.mark.parametrize(("count", "step", "each"), [(1, 2, 5), (2, 3, 5), (8, 4, 5), (2, 2, 10)])
def test_fastvid_is_the_official_rule_where_counts_divide(count: int, step: int, each: int) -> None:
    frames, size, found = 6, 20, 0
    for seed in range(6):
        state = state_of(seed, frames=frames, size=size)
        chosen = FastVID(tokens=1, segments=count, anchor_step=step, threshold=0.5).select(state, frames * each)
        for row, video in enumerate(videos(state)):
            parts = cuts_in_loops(video, count, 0.5)
            shares = [divmod(len(part) * int(each * 0.4), math.ceil(len(part) / step)) for part in parts]
            if any(left or share > size - each for share, left in shares):
                continue
            kept = fastvid_in_loops(video, state.tower.attentions[2, row].view(frames, size), parts, each, step)
            assert chosen.index[row].tolist() == sorted(kept)
            torch.testing.assert_close(chosen.features[row], torch.stack([kept[place] for place in sorted(kept)]))
            found += 1
    assert found > 3


def saved(still: Sequence[Sequence[bool]], first: int, last: int) -> int:
    places = range(len(still[0])) if still else ()
    return sum(all(still[f][i] for f in range(first, last)) for i in places) * (last - first)


@pytest.mark.parametrize("seed", range(12))
def test_holitoms_segments_save_most(seed: int) -> None:
    """Against every way to cut the video."""
    frames = 1 + seed % 6
    draw = torch.Generator().manual_seed(seed)
    still = (torch.rand(frames - 1, 7, generator=draw) < 0.3 + 0.1 * (seed % 5)).tolist()
    best = 0
    for cuts in product((False, True), repeat=frames - 1):
        edges = [0, *(f + 1 for f, cut in enumerate(cuts) if cut), frames]
        best = max(best, sum(saved(still, a, b - 1) for a, b in pairwise(edges)))
    found = segments(still, 7)
    assert [frame for first, last, _ in found for frame in range(first, last + 1)] == list(range(frames))
    assert sum(saved(still, first, last) for first, last, _ in found) == best
    for first, last, places in found:
        expected = [i for i in range(7) if first < last and all(still[f][i] for f in range(first, last))]
        assert places == expected


def test_holitoms_segments_of_still_and_of_unlike_frames() -> None:
    assert segments([[True] * 4] * 3, 4) == [(0, 3, [0, 1, 2, 3])]
    assert segments([[False] * 4] * 3, 4) == [(f, f, []) for f in range(4)]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_holitom_keeps_attended_moving_and_central_still_tokens(threshold: float) -> None:
    state, keep = state_of(5), 24
    chosen = HoliTom(tokens=1, threshold=threshold).select(state, keep)
    received = state.tower.receives[2].unflatten(1, (FRAMES, SIZE))
    for row, video in enumerate(videos(state)):
        still = [[cos(a, b) > threshold for a, b in zip(*pair, strict=True)] for pair in pairwise(video)]
        parts = segments(still, SIZE)
        left = FRAMES * SIZE - sum(saved(still, first, last) for first, last, _ in parts)
        kept = rows_of(chosen)[row]
        assert len(kept) == min(keep, left)
        order: list[int] = []
        for first, last, places in parts:
            share = min(keep / left, 1.0)
            centres = [i for i in kept if i // SIZE == first and i % SIZE in places]
            assert abs(len(centres) - share * len(places)) < 1.0
            order += sorted(centres)
            for frame in range(first, last + 1):
                moving = [i for i in range(SIZE) if i not in places]
                here = [i % SIZE for i in kept if i // SIZE == frame and i % SIZE in moving]
                assert abs(len(here) - share * len(moving)) < 1.0
                top = falling(received[row, frame, moving])[: len(here)]
                assert sorted(here) == sorted(moving[i] for i in top)
                order += [frame * SIZE + i for i in sorted(here)]
            means = {first * SIZE + i: video[first : last + 1, i].mean(dim=0) for i in places}
            for centre, expected in holitom_in_loops(means, centres).items():
                torch.testing.assert_close(chosen.features[row, kept.index(centre)], expected)
        assert kept == order, "still tokens of a segment go before its frames"


def holitom_in_loops(means: dict[int, Tensor], centres: list[int]) -> dict[int, Tensor]:
    """Every still token that is left out joins the nearest centre, which keeps 0.6 of its weight."""
    others = [i for i in means if i not in centres] if centres else []
    groups = nearest(centres, others, lambda i, c: -float((means[i] - means[c]).norm()))
    joined = {centre: torch.stack([means[i] for i in group]).mean(dim=0) for centre, group in groups.items() if group}
    return {c: 0.6 * means[c] + 0.4 * joined[c] if c in joined else means[c] for c in centres}


def test_holitom_keeps_fewer_where_a_still_video_has_fewer() -> None:
    state = state_of()
    videos(state)[1] = videos(state)[1, 0].clone()
    chosen = HoliTom(tokens=1).select(state, 24)
    assert sorted(rows_of(chosen)[1]) == list(range(SIZE))
    torch.testing.assert_close(chosen.features[1][chosen.valid[1]], state.visual_hidden[1, :SIZE])


@pytest.mark.parametrize("keep", [1, 7, 19])
def test_holitom_merges_inside_the_decoder_one_after_the_other(keep: int) -> None:
    state = FakeState(2, 20, stage=Stage(8, keep))
    chosen = HoliTom(tokens=64).select(state, keep)
    for row, tokens in enumerate(state.visual_hidden):
        kept = highest(state.last_attention[row], keep)
        assert chosen.index[row].tolist() == kept
        merged = {i: tokens[i].clone() for i in kept}
        for i in range(20):
            if i not in kept:
                best = max(kept, key=lambda k, i=i: cos(tokens[i], tokens[k]))
                merged[best] = (merged[best] + tokens[i]) / 2
        torch.testing.assert_close(chosen.features[row], torch.stack([merged[i] for i in kept]))


def test_holitoms_second_stage_halves_unless_it_has_no_share() -> None:
    first, second = HoliTom(ratio=0.9, accounting="nominal").schedule(6272, 28).stages
    assert (first.keep, second.keep) == (627, 314)
    assert HoliTom(tokens=64, inner_share=0.0).schedule(576, 28).stages == (Stage(0, 64),)


Layers = list[tuple[list[int], Tensor]]
"""Of each layer of a decoder the places of the visual tokens that enter it, and their features."""


def framefusion(method: FrameFusion, tokens: Tensor, attention: Tensor, frames: int) -> Layers:
    """What the method does in a decoder that leaves tokens as they are.

    Args:
        tokens: (tokens, dim) of a video.
        attention: (layers, tokens), each layer's own.
    """
    layers, total = attention.shape
    budget = method.target(total)
    places, scratch, seen = list(range(total)), [{}], []
    for layer in range(layers):
        if layer <= last_stage(layers):
            state = FakeState(1, len(places), stage=Stage(layer, budget))
            state.visual_hidden, state.scratch, state.depth = tokens[None], scratch, layers
            state.clip, state.places = (frames, SIZE), torch.tensor(places)
            state.last_attention = attention[layer, places][None]
            places, tokens = applied(method.select(state, budget), places, tokens)
        seen.append((places, tokens))
    return seen


def applied(chosen: Selection, places: list[int], tokens: Tensor, row: int = 0) -> tuple[list[int], Tensor]:
    """What is left of a row: places and features."""
    index = chosen.index[row]
    features = tokens[index]
    if chosen.features is not None and chosen.replaced is not None:
        features = torch.where(chosen.replaced[row][:, None], chosen.features[row], features)
    if chosen.valid is not None:
        index, features = index[chosen.valid[row]], features[chosen.valid[row]]
    return [places[i] for i in index.tolist()], features


def framefusion_in_loops(tokens: Tensor, attention: Tensor, frames: int, cost: float, bound: float) -> Layers:
    """As the official code, called before each layer; cost is the mean share of the tokens over all layers."""
    layers, places, values = len(attention), list(range(len(tokens))), dict(enumerate(tokens))
    shares: list[float] = []
    merging, pruning, seen = True, True, []
    for layer in range(layers):
        left, used = 1.0, 0.0
        for share in shares:
            left *= 1.0 - share
            used += left
        room = layers * cost - used
        needed = max(0.0, 1.0 - room / ((layers - len(shares)) * left)) if merging or pruning else 0.0
        if not merging and pruning:
            order = falling([float(attention[layer][i]) for i in places])
            stays = {places[i] for i in order[: round(len(places) * (1.0 - needed))]}
            places = [i for i in places if i in stays]
            pruning = False
        elif merging:
            total = len(places)
            alike: dict[int, float] = {}
            lines = [[i for i in places if i % SIZE == spot and i < frames * SIZE] for spot in range(SIZE)]
            for line in lines:
                alike |= {later: cos(values[earlier], values[later]) for earlier, later in pairwise(line)}
            joins = [i for i in alike if alike[i] >= bound]
            if len(joins) / total < needed:
                shares.append(len(joins) / total)
                merging = len(joins) / total >= 0.1
            else:
                many = int(needed * total + 1e-9)  # before the first layer it is a whole number up to rounding errors
                joins = sorted(alike, key=lambda i: -alike[i])[:many]
                merging = pruning = False
            for line in lines:
                runs: list[list[int]] = []
                for i in line:
                    if i in joins:
                        runs[-1].append(i)
                    else:
                        runs.append([i])
                for run in runs:
                    values[run[0]] = torch.stack([values[i] for i in run]).mean(dim=0)
            places = [i for i in places if i not in joins]
        seen.append((places, torch.stack([values[i] for i in places])))
    return seen


@pytest.mark.parametrize(("frames", "loose"), [(FRAMES, 0), (FRAMES, 1), (1, 0)])
@pytest.mark.parametrize(("cost", "bound"), [(0.5, 0.9), (0.4, 0.95), (0.35, 0.6), (0.5, 0.99), (0.6, 0.85)])
def test_framefusion_is_the_official_rule(cost: float, bound: float, frames: int, loose: int) -> None:
    layers, steps = 28, set()
    for seed in range(4):
        total = frames * SIZE + loose
        tokens = state_of(seed, rows=1, loose=loose, frames=frames).visual_hidden[0]
        attention = torch.rand(layers, total, generator=torch.Generator().manual_seed(seed + 9))
        budget = round(cost * total)
        ours = framefusion(FrameFusion(tokens=budget, similarity=bound), tokens, attention, frames)
        official = framefusion_in_loops(tokens, attention, frames, budget / total, bound)
        for (places, features), (expected, values) in zip(ours, official, strict=True):
            assert places == expected
            torch.testing.assert_close(features, values)
        steps.add(len({len(places) for places, _ in ours}))
    assert steps - {1}


@pytest.mark.parametrize("layers", [8, 28])
@pytest.mark.parametrize("bound", [-1.0, 0.8, 1.1], ids=["all merge", "some", "none"])
@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_framefusions_counts_average_the_budget(ratio: float, bound: float, layers: int) -> None:
    """However many tokens merge, and also where merging would last too long."""
    for seed in range(3):
        tokens = state_of(seed, rows=1).visual_hidden[0]
        attention = torch.rand(layers, FRAMES * SIZE, generator=torch.Generator().manual_seed(seed + 9))
        for share in (0.0, 0.1):
            method = FrameFusion(ratio=ratio, similarity=bound, merging_share=share)
            counts = [len(places) for places, _ in framefusion(method, tokens, attention, FRAMES)]
            assert sum(counts) / layers == pytest.approx(method.target(FRAMES * SIZE), abs=1)
            assert all(later <= earlier for earlier, later in pairwise(counts))


def test_rows_that_merge_and_rows_that_are_pruned_go_together() -> None:
    """Rows of one length whose earlier layers left different counts."""
    method, counts = FrameFusion(tokens=20, similarity=0.9), (80, 61)
    state = state_of(1, rows=2)
    state.stage, state.depth = Stage(1, 20), 28
    state.scratch = [{"counts": [count]} for count in counts]
    together = method.select(state, 20)
    for row, count in enumerate(counts):
        alone, tokens = copy.copy(state), state.visual_hidden[row]
        alone.visual_hidden, alone.last_attention = tokens[None], state.last_attention[row : row + 1]
        alone.scratch = [{"counts": [count]}]
        single, everything = method.select(alone, 20), list(range(len(tokens)))
        places, features = applied(together, everything, tokens, row)
        expected, values = applied(single, everything, tokens)
        assert places == expected
        torch.testing.assert_close(features, values)
        assert (single.features is not None) == (row == 0), "one merges, the other is pruned"
