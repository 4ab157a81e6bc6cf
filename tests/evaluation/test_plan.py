"""From configurations to cells: what changes a signature, what does not, and what is refused before a model loads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clasp.config import RunConfig
from clasp.evaluation import plan as plan_module
from clasp.evaluation.plan import plan
from clasp.strict import ConfigError

Configured = Callable[..., RunConfig]
ONE = "benchmarks.names=[world_ocr]"


def signatures(config: RunConfig) -> list[str]:
    return [cell.signature for cell in plan(config).cells]


def test_the_main_experiment_is_13_groups_of_7(configured: Configured) -> None:
    planned = plan(configured("experiment=tiny_main"))
    labels = [group.label for group in planned.groups]
    pruned = [
        f"{method} at {tokens}" for method in ("random", "fastv", "visionzip", "clasp") for tokens in (192, 128, 64)
    ]
    assert labels == ["none", *pruned]
    assert len(planned.cells) == len({cell.signature for cell in planned.cells}) == 13 * 7


@pytest.mark.parametrize(
    "override",
    [
        "tokens=65",
        "limit=9",
        "limit=all",
        "dtype=bfloat16",
        "fusion=deep",
        "router=keyword",
        "router=oracle",
        "policy.pivot_share=0.5",
        "policy.categories.ocr.pivot_share=0.5",
        "policy.categories.scene.weights=[0,0,0.5,0.5]",
        "method.completion=farthest_point",
        "method.stage_layers=[1,3]",
        "benchmarks.names=[world_scene]",
        "method=fastv",
    ],
)
def test_what_can_change_a_score_changes_the_cell(configured: Configured, override: str) -> None:
    base = ["method=clasp", "tokens=64", "limit=8", ONE]
    kept = [item for item in base if item.split("=")[0] != override.split("=")[0]]
    assert signatures(configured(*kept, override)) != signatures(configured(*base))


@pytest.mark.parametrize(
    "overrides",
    [
        ["batch_size=3"],
        ["name=other"],
        ["device=auto"],
        ["paths.results=/elsewhere"],
        ["wandb.project=other"],
        ["seed=5"],
        ["policy.categories.ocr.pivot_share=0.7"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_cannot_change_a_score_does_not(configured: Configured, overrides: list[str]) -> None:
    base = ["method=clasp", "tokens=64", "limit=8", ONE]
    assert signatures(configured(*base, *overrides)) == signatures(configured(*base))


def test_only_methods_that_draw_depend_on_the_seed(configured: Configured) -> None:
    base = ["tokens=64", "limit=8", ONE]
    assert signatures(configured(*base, "method=random", "seed=1")) != signatures(configured(*base, "method=random"))
    assert signatures(configured(*base, "method=fastv", "seed=1")) == signatures(configured(*base, "method=fastv"))


def test_a_ratio_and_its_count_are_the_same_cell(configured: Configured) -> None:
    by_ratio, by_count = configured("ratio=0.8889", ONE), configured("tokens=64", ONE)
    assert signatures(by_ratio) == signatures(by_count)
    assert plan(by_ratio).cells[0].budget == {"tokens": 64, "ratio": 0.8889, "visual_tokens": 576}


def test_a_limit_beyond_the_benchmark_is_all_of_it(configured: Configured) -> None:
    assert signatures(configured("tokens=64", "limit=100000", ONE)) == signatures(
        configured("tokens=64", "limit=all", ONE)
    )


def test_settings_of_clasp_do_not_touch_other_methods(configured: Configured) -> None:
    base = ["method=fastv", "tokens=64", ONE]
    changed = signatures(configured(*base, "fusion=shallow", "router=fixed", "policy.pivot_share=0.1"))
    assert changed == signatures(configured(*base))


def test_the_unpruned_model_is_one_cell_whatever_the_budget(configured: Configured) -> None:
    planned = plan(configured("method=none", "tokens=64", ONE))
    assert planned.cells[0].budget["tokens"] == 576
    assert planned.notices
    assert signatures(configured("method=none", ONE)) == [planned.cells[0].signature]


def test_code_questions_and_packages_are_part_of_the_identity(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("tokens=64", ONE)
    seen = {*signatures(config)}
    changed = dict.fromkeys(("prompt_protocol", "scoring_protocol", "weights_fingerprint"), "changed")
    for name, value in {**changed, "versions": {"torch": "0"}}.items():
        with monkeypatch.context() as patched:
            patched.setattr(plan_module, name, lambda *_, value=value: value)
            seen |= {*signatures(config)}
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=clasp"], ["clasp", "needs a budget", "tokens=64"]),
        (["tokens=64", "benchmarks.names=[world_ocrr]"], ["'world_ocrr'", "world_ocr", "did you mean"]),
        (["grid.method=[clasp,slowv]", "grid.tokens=[64]"], ["'slowv'", "fastv"]),
        (["tokens=64", "method.stage_layers=[2,12]"], ["layer 12", "0 to 11"]),
        (["tokens=64", "method.stage_layers=[6,2]"], ["increase"]),
        (["tokens=64", "method.completion=nearest"], ["'nearest'", "density_peaks"]),
        (["tokens=64", "+method.complete=x"], ["'complete'", "completion"]),
        (["tokens=64", "fusion.name=sharp"], ["'sharp'", "deep"]),
        (["tokens=64", "router.name=coin"], ["'coin'", "embedding"]),
        (["tokens=64", "fusion=custom", "fusion.weights=[0.5,0.5]", "fusion.layers=[3,9]"], ["9", "0 to 6"]),
        (["method=fastv", "tokens=64", "method.layer=0"], ["layer=0", "1 to 11"]),
        (["method=fastv", "tokens=2", "method.layer=6"], ["2", "smallest is"]),
        (["tokens=64", "backbone.visual_tokens=400"], ["400", "576"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else value,
)
def test_bad_input_is_one_sentence(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: list[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError) as caught:
        plan(configured(*overrides))
    for word in words:
        assert word in str(caught.value)


def test_a_benchmark_that_nobody_can_judge_here_is_planned_all_the_same(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    planned = plan(configured("method=none", "benchmarks.names=[world_ocr,mmvet]"))
    assert [cell.benchmark for cell in planned.cells] == ["world_ocr", "mmvet"]
    assert planned.notices == ()
