"""Properties of the selection of every method in the engine's matrix, on any values that a stage may show it.

That rows of a batch do not look at each other, that budgets are met and that the same input gives the same answer is
tested on whole models: ``engine/test_matrix.py`` and ``engine/test_full_size.py``.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cases import METHODS
from fakes import LLAVA, FakeState, rows_of
from torch import Tensor

from clasp.budget import Stage
from clasp.methods import get
from clasp.methods.base import Method
from clasp.methods.protocols import Selection

FRAMES, SIZE = 4, 6
VISUAL = FRAMES * SIZE
SELECTING = [name for name in METHODS if not name.startswith("framefusion")]
"""FrameFusion's selection is what the layers before have left to it: ``test_video_methods.py``."""
ORDERED = ("prumerge", "visionzip", "visiontrim", "sparsevlm", "holitom")
"""Methods that return kept tokens in another than ascending order."""
NAMES = sorted({method.name for method in METHODS.values()})
KEEPS_POSITIONS = {
    *("clasp", "dart", "fastv", "fastvid", "framefusion", "ivcprune", "pact", "random", "random_inside", "stride"),
    "v2drop",
}
"""Methods whose tokens keep their rotary positions by default, as in their official code."""
READS_CLS = {
    *("fastervlm", "fastvid", "flowcut", "hired", "holov", "mustdrop", "prumerge", "prumerge_plus"),
    *("prunesid", "scope", "vispruner", "visiontrim", "visionzip", "vscan"),
}


def shown(method: Method, keep: int, loose: int = 0) -> FakeState:
    """A stage's state of three rows, a picture of 4 x 6 tokens or a video of four frames, ``loose`` tokens behind."""
    inside = method.inside and not method.needs_videos
    state = FakeState(3, VISUAL + loose, stage=Stage(int(inside), keep), words=(5, 2, 1), feature_layer=6)
    state.categories = ["ocr", "general", "scene"]
    state.shape = (FRAMES, SIZE)
    state.clip = (FRAMES, SIZE) if method.needs_videos else None
    return state


def select(name: str, state: FakeState, keep: int) -> Selection:
    return dataclasses.replace(METHODS[name], ratio=None, tokens=keep).select(state, keep)


@pytest.mark.parametrize("loose", [0, 1])
@pytest.mark.parametrize("name", SELECTING)
def test_every_budget_gives_that_many_distinct_tokens(name: str, loose: int) -> None:
    first_frame = SIZE + loose if METHODS[name].name == "evs" else 0  # which EVS keeps whole, whatever the budget
    for keep in (1, 2, 3, 4, 5, 7, 12, 22, 23):
        state = shown(METHODS[name], keep, loose)
        selection = select(name, state, keep)
        for row in rows_of(selection):
            assert len(set(row)) == len(row)
            assert 0 <= min(row) <= max(row) < VISUAL + loose
            assert len(row) <= max(keep, first_frame)
            assert selection.valid is not None or len(row) >= keep
            assert row == sorted(row) or name.startswith(ORDERED)
        if selection.features is not None:
            assert selection.features.shape == (*selection.index.shape, 6)
            assert selection.features.isfinite().all()
        assert state.tower.reads <= set(METHODS[name].vision_states(state.tower.feature_layer))


@pytest.mark.parametrize("name", [name for name in SELECTING if METHODS[name].needs_videos])
def test_the_newline_behind_a_video_is_kept_as_it_is(name: str) -> None:
    state = shown(METHODS[name], 12, 1)
    selection = select(name, state, 12)
    place = (selection.index == VISUAL).nonzero()[:, 1]
    assert len(place) == 3
    if selection.features is not None:
        assert selection.features[torch.arange(3), place].equal(state.visual_hidden[:, VISUAL])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", SELECTING)
def test_equal_tokens_and_scores_are_no_special_case(name: str, value: float, dtype: torch.dtype) -> None:
    for keep in (1, 5, 19):
        state = shown(METHODS[name], keep)
        for part in (state, state.tower, state.looked_at):
            for attribute, planted in vars(part).items():
                if isinstance(planted, Tensor) and planted.is_floating_point():
                    filled = torch.full_like(planted, value)
                    hidden = attribute in ("visual_hidden", "word_hidden", "original_visual", "original_words")
                    setattr(part, attribute, filled.to(dtype) if hidden else filled)
        state.looked_at.whole = {kind: torch.full_like(part, value) for kind, part in state.looked_at.whole.items()}
        selection = select(name, state, keep)
        assert all(len(set(row)) == len(row) > 0 for row in rows_of(selection))
        assert selection.features is None or bool(selection.features.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_methods_state_their_assumptions_and_a_missing_cls(name: str) -> None:
    method = get(name)(ratio=0.6)
    assert (method.positions == "original") == (name in KEEPS_POSITIONS)
    assert method.assumed() or name == "random"
    notes = method.fallbacks(dataclasses.replace(LLAVA, cls=False))
    assert any("CLS" in note for note in notes) == (name in READS_CLS)
    assert not any("CLS" in note for note in method.fallbacks(LLAVA))
