"""Rules for servers: the count is known before the mask, and both are the engine's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import recorded
from families import FAMILIES, Prompt, film, picture
from torch import Tensor

from clasp.backbones import adapter_for
from clasp.budget import BudgetError
from clasp.methods import METHODS, get
from clasp.methods.base import Method
from clasp.serving import (
    NotServableError,
    compute_retained_tokens_count,
    compute_retention_mask,
    retained_embeddings,
)

RULES: dict[str, dict[str, Any]] = {
    "stride": {},
    "pool": {},
    "divprune": {},
    "scope": {"alpha": 0.0, "features": "projected"},
    "evs": {},
    "vidcom2": {},
}
RATIOS = (0.1, 0.5, 0.889)
SERVED = {"none": 128, "stride": 51, "pool": 51, "divprune": 51, "evs": 64, "vidcom2": 51}
"""Methods that look at nothing else with their defaults, and how many they keep of two frames of 64 tokens at 0.6."""


def rule(name: str, **budget: Any) -> Method:
    return get(name)(**RULES[name], **budget)


PROMPTS = {
    "image": Prompt(text="What?", images=[picture(60, 44, 1), picture(90, 30, 2)]),
    "video": Prompt(text="What?", videos=[film(8, 48, 40)]),
}


def encoded(family: str, kind: str) -> tuple[Any, list[Tensor], list[tuple[int, int, int]], int]:
    """A prompt's inputs, the encoder's output of each medium, its sizes, and the patches along a side of a token."""
    model = FAMILIES[family].model()
    inputs = FAMILIES[family].inputs([PROMPTS[kind]])
    adapter = adapter_for(model)
    with torch.no_grad():
        output = adapter.encode({k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")})
    features = output["mm_encoder_outputs"][kind].pooler_output
    if family == "llava":
        return inputs, list(features), [(1, 8, 8)] * len(features), 1
    sizes = [tuple(grid) for grid in inputs[f"{kind}_grid_thw"].tolist()]
    return inputs, list(features), sizes, model.config.vision_config.spatial_merge_size


@pytest.mark.parametrize(("family", "kind"), [("llava", "image"), ("qwen2_vl", "image"), ("qwen3_vl", "video")])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", RULES)
def test_count_and_mask_equal_those_of_the_engine(name: str, ratio: float, family: str, kind: str) -> None:
    method = rule(name, ratio=ratio)
    if method.needs_videos and not adapter_for(FAMILIES[family].model()).geometry.videos:
        pytest.skip("the engine refuses it there")
    inputs, features, sizes, merge = encoded(family, kind)
    model = FAMILIES[family].model()
    first = model.model.language_model.layers[0]  # recorded behind the engine's own hooks, which drop tokens before it
    with FAMILIES[family].pruned_by(method) as run, recorded(first) as calls, torch.no_grad():
        model(**inputs)
    (entered, *_), _ = calls[0]
    (kept,) = run.trace.samples[0].kept
    counts = [compute_retained_tokens_count(method, (h // merge) * (w // merge), t) for t, h, w in sizes]
    masks = [compute_retention_mask(method, part, size, merge) for part, size in zip(features, sizes, strict=True)]
    assert torch.cat(masks).nonzero().squeeze(1).tolist() == kept.tolist()
    assert [int(mask.sum()) for mask in masks] == counts
    left = torch.cat([retained_embeddings(method, *pair, merge) for pair in zip(features, sizes, strict=True)])
    there = torch.cdist(left.double(), entered[0].double()).amin(dim=1)
    assert float(there.max()) < 1e-5, "what the server hands on is what enters the engine's first layer"


@pytest.mark.parametrize("name", RULES)
def test_the_mask_keeps_the_stated_count_at_any_size(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    for frames, rows, columns in ((1, 1, 1), (1, 3, 5), (2, 1, 7), (5, 3, 4), (3, 7, 2)):
        embeds = torch.randn(frames * rows * columns, 6, generator=draw)
        for ratio in (0.0, 0.33, 0.75, 0.99):
            method = rule(name, ratio=ratio)
            count = compute_retained_tokens_count(method, rows * columns, frames)
            mask = compute_retention_mask(method, embeds, torch.tensor([frames, 2 * rows, 2 * columns]), 2)
            assert mask.dtype == torch.bool
            first = rows * columns if name == "evs" else 1  # of a video, EVS keeps the first frame whatever the budget
            assert int(mask.sum()) == count == max(first, round(len(embeds) * (1 - ratio)))
            assert retained_embeddings(method, embeds, (frames, rows, columns)).shape == (count, 6)


@pytest.mark.parametrize("name", METHODS)
def test_what_needs_more_than_embeddings_is_refused_by_name(name: str) -> None:
    method = get(name)() if name == "none" else get(name)(ratio=0.6)
    if name in SERVED:
        assert compute_retained_tokens_count(method, 64, 2) == SERVED[name]
        return
    with pytest.raises(NotServableError, match=f"method '{name}'"):
        compute_retained_tokens_count(method, 64)


def test_scope_with_attention_says_what_it_reads() -> None:
    with pytest.raises(NotServableError, match="'scope' reads 'vision'"):
        compute_retained_tokens_count(get("scope")(ratio=0.5, features="projected"), 64)
    noted = get("scope")(ratio=0.5, alpha=0.0).fallbacks(adapter_for(FAMILIES["qwen2_vl"].model()).geometry)
    assert not any("CLS" in note for note in noted), "it reads none"


def test_sizes_that_are_not_the_embeddings_are_refused() -> None:
    method = rule("stride", ratio=0.5)
    with pytest.raises(ValueError, match=r"\(13, 4\).*1 frames of 3 x 4"):
        compute_retention_mask(method, torch.zeros(13, 4), (1, 3, 4))
    with pytest.raises(ValueError, match="0 frames"):
        compute_retained_tokens_count(method, 4, 0)
    with pytest.raises(BudgetError, match="tokens=65"):
        compute_retained_tokens_count(rule("stride", tokens=65), 64)
