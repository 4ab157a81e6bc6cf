"""From configurations to cells: what changes a signature, what does not, and what is refused before a model loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_support import Configured

from clasp.config import RunConfig
from clasp.evaluation.plan import plan
from clasp.strict import ConfigError

ONE = "benchmarks.names=[tiny_textvqa]"
EXPERIMENTS = sorted((Path(__file__).resolve().parents[2] / "configs" / "experiment").glob("*.yaml"))


def row(method: str, values: str) -> list[str]:
    """An experiment of the method and of one variant, as overrides."""
    return [f"grid.method=[{method}]", f"+grid.variants.mine={values}", "grid.tokens=[64]", "limit=8", ONE]


def signatures(config: RunConfig) -> list[str]:
    return [cell.signature for cell in plan(config).cells]


@pytest.mark.parametrize(
    "override",
    [
        *("tokens=65", "limit=9", "limit=all", "dtype=bfloat16", "benchmarks.names=[tiny_gqa]", "method=fastv"),
        *("fusion=deep", "router=keyword", "router=oracle", "policy.pivot_share=0.5"),
        *("policy.categories.ocr.pivot_share=0.5", "policy.categories.scene.weights=[0,0,0.5,0.5]"),
        *("method.completion=farthest_point", "method.stage_layers=[1,3]"),
    ],
)
def test_what_can_change_a_score_changes_the_cell(configured: Configured, override: str) -> None:
    base = ["method=clasp", "tokens=64", "limit=8", ONE]
    kept = [item for item in base if item.split("=")[0] != override.split("=")[0]]
    assert signatures(configured(*kept, override)) != signatures(configured(*base))


DEFAULT = ["method=clasp", "policy=default", "tokens=64", "limit=8"]
FASTV = ["method=fastv", "tokens=64"]
SAME = [
    *("batch_size=3", "name=other", "device=auto", "paths.results=/elsewhere", "wandb.project=other"),
    *("seed=5", "policy.categories.ocr.pivot_share=0.7"),
]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((DEFAULT, [*DEFAULT, override]) for override in SAME),
        (["ratio=0.8889"], ["tokens=64"]),
        (["tokens=64", "limit=100000"], ["tokens=64", "limit=all"]),
        (FASTV, [*FASTV, "fusion=shallow", "router=fixed", "policy.pivot_share=0.1"]),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_what_cannot_change_a_score_does_not(configured: Configured, one: list[str], other: list[str]) -> None:
    assert signatures(configured(*one, ONE)) == signatures(configured(*other, ONE))


def test_a_budget_is_kept_as_it_was_asked_for(configured: Configured) -> None:
    (cell,) = plan(configured("ratio=0.8889", ONE)).cells
    assert cell.budget == {"tokens": 64, "ratio": 0.8889, "visual_tokens": 576}


def test_only_methods_that_draw_depend_on_the_seed(configured: Configured) -> None:
    """CLASP draws in one of its completion rules only; that it is one cell otherwise, the table above says."""
    for draws in (["method=random"], ["method=clasp", "method.completion=random"]):
        base = ["tokens=64", "limit=8", ONE, *draws]
        assert signatures(configured(*base, "seed=1")) != signatures(configured(*base))


def test_a_cell_says_when_keyword_rules_stand_in(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clasp.methods.clasp.router.encoder_installed", lambda: False)
    planned = plan(configured("method=clasp", "tokens=64", ONE))
    (group,) = (group for group in planned.groups if group.method.name == "clasp")
    notes = group.method.fallbacks(planned.geometry)
    assert "keyword rules stand in" in notes[0], "of which the provenance of cells is made"
    asked = plan(configured("method=clasp", "tokens=64", "router=keyword", ONE))
    assert not {spec.signature for spec in group.specs} & {spec.signature for spec in asked.cells}


def test_the_unpruned_model_is_one_cell_whatever_the_budget(configured: Configured) -> None:
    planned = plan(configured("method=none", "tokens=64", ONE))
    assert planned.cells[0].budget["tokens"] == 576
    assert planned.notices
    assert signatures(configured("method=none", ONE)) == [planned.cells[0].signature]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tokens=64", "benchmarks.names=[tiny_textvqar]"], ["'tiny_textvqar'", "tiny_textvqa", "did you mean"]),
        (["grid.method=[clasp,slowv]", "grid.tokens=[64]"], ["'slowv'", "fastv"]),
        (["tokens=64", "method.stage_layers=[6,2]"], ["increase"]),
        (["tokens=64", "method.completion=nearest"], ["'nearest'", "density_peaks"]),
        (["tokens=64", "+method.complete=x"], ["'complete'", "completion"]),
        (["tokens=64", "fusion.name=sharp"], ["'sharp'", "deep"]),
        (["tokens=64", "router.name=coin"], ["'coin'", "embedding"]),
        (["tokens=64", "fusion=custom", "fusion.weights=[0.5,0.5]", "fusion.layers=[3,19]"], ["19", "0 to 11"]),
        (["method=fastv", "tokens=64", "method.layer=0"], ["layer=0", "1 to 31"]),
        (["method=fastv", "tokens=2", "method.layer=6"], ["2", "smallest is"]),
        (["tokens=64", "backbone.visual_tokens=400"], ["400", "576"]),
        (["method=none", "benchmarks=video4"], ["backbone=tiny", "tgif", "video_llava_7b"]),
    ],
    ids=lambda value: value[-1],
)
def test_bad_input_is_one_sentence(configured: Configured, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(configured(*overrides))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_can_be_run_on_the_tiny_backbone(configured: Configured, path: Path) -> None:
    """Each row of the file, at each budget, and no two rows of one name and budget."""
    config = configured(f"experiment={path.stem}", "backbone=tiny", "limit=2", ONE)
    planned = plan(config)
    names = [name for name, _ in planned.rows]
    left_out = {notice.split(": ")[1] for notice in planned.notices if notice.startswith("left out: ")}
    asked = [*config.grid.method, *config.grid.variants]
    assert [name for name in asked if name in names or name not in left_out] == list(dict.fromkeys(names))
    assert not left_out or config.grid.every
    budgets = len(config.grid.tokens or config.grid.ratio)
    assert {names.count(name) for name in names if name not in left_out} <= {1, budgets}
    assert len({(name, specs[0].budget["tokens"]) for name, specs in planned.rows}) == len(names)
    assert {spec.signature for _, specs in planned.rows for spec in specs} == {s.signature for s in planned.cells}


def test_of_every_method_only_what_cannot_be_is_left_out(configured: Configured) -> None:
    """A method's own bad parameter is an error, not a row less; a budget that only PACT cannot meet costs its row."""
    every = ("grid.method=[all]", "grid.tokens=[64]", "limit=2", ONE)
    left_out = {notice.split(": ")[1] for notice in plan(configured(*every)).notices if notice.startswith("left out: ")}
    assert "pact" in left_out
    assert not left_out & {"random", "fastv", "clasp"}
    with pytest.raises(ConfigError, match="completion"):
        plan(configured(*every, "method=clasp", "method.completion=nothing"))
    with pytest.raises(ConfigError, match="tokens=900 is more than"):
        plan(configured("grid.method=[all]", "grid.tokens=[900]", "limit=2", ONE))


def identity(config: RunConfig, name: str) -> dict[str, Any]:
    """The method of the row's cells, with all that makes it."""
    (specs,) = (specs for row, specs in plan(config).rows if row == name)
    return specs[0].method


def test_a_variant_is_a_row_by_its_own_name(configured: Configured) -> None:
    planned = plan(configured(*row("none,clasp", "{fusion: {name: deep}}")))
    methods = {name: spec.method["name"] for name, (spec,) in planned.rows}
    assert methods == {"none": "none", "clasp": "clasp", "mine": "clasp"}
    assert [group.label for group in planned.groups] == ["none", "clasp at 64", "mine at 64"]
    assert len({spec.signature for spec in planned.cells}) == 3
    unpruned = plan(configured(*row("clasp", "{method: {name: none}}"), "grid.tokens=[128,64]"))
    assert [name for name, _ in unpruned.rows] == ["clasp", "clasp", "mine"], "it has no budget"


def test_a_variant_that_changes_nothing_shares_its_cells(configured: Configured) -> None:
    planned = plan(configured(*row("none,clasp", "{method: {name: clasp, completion: density_peaks}}")))
    rows = dict(planned.rows)
    assert rows["mine"] == rows["clasp"]
    assert [group.label for group in planned.groups] == ["none", "clasp at 64"], "computed once"


def test_a_variant_is_what_the_same_run_by_itself_is(configured: Configured) -> None:
    base = ["policy=default", "tokens=64", "limit=8", ONE]
    for values, overrides in (
        ("{method: {name: fastv, positions: contiguous}}", ["method=fastv", "method.positions=contiguous"]),
        ("{fusion: {name: deep}}", ["fusion=deep"]),
        ("{fusion: {name: custom, weights: [0.25, 0.75]}}", ["fusion=custom", "fusion.weights=[0.25,0.75]"]),
        ("{policy: {name: other, pivot_share: 0.5}}", ["policy.pivot_share=0.5"]),
        ("{policy: {name: other, categories: {ocr: {pivot_share: 0.1}}}}", ["policy.categories.ocr.pivot_share=0.1"]),
        ("{router: {name: keyword}}", ["router=keyword"]),
        ("{router: {name: fixed, category: ocr}}", ["router=fixed", "router.category=ocr"]),
    ):
        (alone,) = signatures(configured(*base, *overrides))
        rows = dict(plan(configured("policy=default", *row("none,clasp", values))).rows)
        assert rows["mine"][0].signature == alone != rows["clasp"][0].signature, values


def test_a_variant_keeps_what_it_does_not_name(configured: Configured) -> None:
    """The run's own parameters hold for its method in every row, the variant's come on top; other parts stay."""
    run = ["method=clasp", "method.stage_layers=[1,3]", "fusion=deep", "policy.pivot_share=0.4"]
    config = configured(*run, *row("clasp", "{method: {name: clasp, completion: farthest_point}}"))
    own, shared = identity(config, "mine")["parameters"], identity(config, "clasp")["parameters"]
    assert own["completion"] == "farthest_point" != shared["completion"]
    assert {key for key in own if own[key] != shared[key]} == {"completion"}
    assert tuple(shared["stage_layers"]) == (1, 3)
    other = configured(*run, *row("clasp", "{method: {name: fastv}}"))
    assert identity(other, "mine") == identity(configured(*row("clasp", "{method: {name: fastv}}")), "mine")


def test_benchmarks_keep_their_order_and_come_once(configured: Configured) -> None:
    planned = plan(configured("tokens=64", "benchmarks.names=[tiny_gqa,tiny_textvqa,tiny_gqa]"))
    assert [benchmark.name for benchmark in planned.benchmarks] == ["tiny_gqa", "tiny_textvqa"]
    assert [spec.benchmark for spec in planned.cells] == ["tiny_gqa", "tiny_textvqa"]
