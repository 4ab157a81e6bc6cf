"""Every configuration composes, loads strictly, and has only choices that the library knows."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import composed
from omegaconf import OmegaConf

from clasp.config import OWN_DATA, RunConfig, load_config
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.methods import METHODS, for_images, get
from clasp.methods.clasp.fusion import FUSIONS
from clasp.methods.clasp.router import ROUTERS
from clasp.strict import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
NEEDED = {("fusion", "custom"): ["fusion.weights=[0.5,0.5]"], ("benchmarks", "custom"): ["data=my.jsonl"]}
CHOICES = sorted((path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="=".join)
def test_every_choice_composes(group: str, choice: str) -> None:
    config = load_config(composed(f"{group}={choice}", *NEEDED.get((group, choice), [])))
    assert isinstance(config, RunConfig)
    chosen = getattr(config, group, None)
    if group == "launcher":
        assert chosen.kind == choice
    elif group != "paths" and chosen is not None:
        assert chosen.name == choice
    assert group != "backbone" or config.policy.name == choice, "a policy of its own"


def test_choices_are_what_the_library_knows() -> None:
    stems = {group: {choice for g, choice in CHOICES if g == group} for group, _ in CHOICES}
    assert stems["method"] == set(METHODS)
    assert stems["fusion"] == {*FUSIONS, "custom"}
    assert stems["router"] == set(ROUTERS)
    assert stems["policy"] == {*stems["backbone"], "default"}
    for choice in stems["benchmarks"] - {OWN_DATA}:
        assert set(load_config(composed(f"benchmarks={choice}")).benchmarks.names) <= set(BENCHMARKS)


@pytest.mark.parametrize("name", METHODS)
def test_method_files_list_every_parameter_without_a_value(name: str) -> None:
    method = OmegaConf.load(CONFIGS / "method" / f"{name}.yaml")
    elsewhere = {"tokens", "ratio", "seed", "fusion", "policy", "router"}
    if not get(name).prunes or len(get(name).accountings) == 1:
        elsewhere |= {"accounting"}  # nothing to choose
    if not get(name).prunes:
        elsewhere |= {"positions"}
    fields = {field.name for field in dataclasses.fields(get(name))} - elsewhere
    assert dict(method) == {"name": name} | dict.fromkeys(fields)


@pytest.mark.parametrize("group", ["backbone", "method", "benchmarks", "experiment"])
def test_lists_in_comments_name_every_choice(group: str) -> None:
    """A group's comment, on its line and below: description, colon, choices, each perhaps with a remark in brackets."""
    text = (CONFIGS / "config.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^  - {group}: \w+ +#[^:]+: (.*(?:\n +#.*)*)", text, re.MULTILINE)
    assert found is not None
    named = re.sub(r"\([^)]*\)", "", found[1])
    assert sorted(re.findall(r"\w+", named)) == [choice for g, choice in CHOICES if g == group]


EXPERIMENTS = [choice for group, choice in CHOICES if group == "experiment"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
OTHERWISE = {"tiny_main": "tables", "calibration": "calibrate"}
"""Experiments whose make target has another name."""
CALLS = {
    target.replace("-", "_"): benchmarks
    for target, *benchmarks in re.findall(r"^([\w-]+):.*\n\t\$\(call experiment,(\w+),(\w+)\)$", MAKEFILE, re.MULTILINE)
}
"""Experiment -> the benchmarks of its make target on the tiny backbone, and on others."""


def target(experiment: str) -> str:
    return OTHERWISE.get(experiment, experiment.replace("_", "-"))


def test_every_experiment_has_a_make_target_of_its_name() -> None:
    for name in EXPERIMENTS:
        assert re.search(rf"^{target(name)}: .*## ", MAKEFILE, re.MULTILINE), f"make help does not show {name}"
        assert (name in CALLS) == (name not in OTHERWISE)


@pytest.mark.parametrize("name", ["tiny_main", "table_video"])
def test_plan_and_prefetch_are_asked_for_what_the_target_runs(name: str) -> None:
    def commands(*words: str) -> list[str]:
        called = ["make", "-n", "-s", *words, "BACKBONE=video_llava_7b", "LIMIT=5", "LAUNCHER=slurm"]
        shown = subprocess.run(called, cwd=ROOT, capture_output=True, text=True, check=True)
        lines = shown.stdout.replace("\\\n", "").splitlines()
        return [" ".join(line.split()) for line in lines if "scripts/" in line]

    run, report = commands(target(name))
    assert "limit=5 launcher=slurm" in run
    assert "report.py" in report
    for step in ("plan", "prefetch"):
        assert commands(step, f"EXPERIMENT={name}") == [run.replace("run.py", f"{step}.py")]


@pytest.mark.parametrize("backbone", ["tiny", "own"])
@pytest.mark.parametrize("name", CALLS)
def test_every_experiment_composes_as_its_make_target_calls_it(name: str, backbone: str) -> None:
    """On the tiny backbone, and on the backbone of its published numbers."""
    if backbone == "own":
        backbone = composed(f"experiment={name}")["report"]["published"] or "qwen2_5_vl_7b"
    benchmarks = CALLS[name][backbone != "tiny"]
    config = load_config(composed(f"experiment={name}", f"backbone={backbone}", f"benchmarks={benchmarks}"))
    assert config.name == f"{name}_{backbone}"
    assert (config.backbone.name, config.policy.name, config.benchmarks.name) == (backbone, backbone, benchmarks)
    assert config.report.title
    assert bool(config.grid.tokens) != bool(config.grid.ratio)
    assert "none" in config.grid.method, "no average without the unpruned model"
    assert len(config.grid.variants) > 1 or config.grid.method in (for_images(), tuple(METHODS))


def test_tables_have_every_method_and_are_tested_against_random() -> None:
    tables = [name for name in EXPERIMENTS if name.startswith("table_")]
    assert len(tables) == 6
    backbones = set(pd.read_csv(ROOT / "results" / "published" / "accuracy.csv")["backbone"])
    for name in tables:
        config = load_config(composed(f"experiment={name}"))
        assert config.grid.every
        assert config.report.reference == "random"
        assert config.report.published in backbones


def test_the_methods_table_is_the_main_table_with_every_method() -> None:
    """All else is equal, so that they share cells."""
    main, every = (composed(f"experiment={name}") for name in ("tiny_main", "table_llava15"))
    assert set(main["grid"]["method"]) < set(METHODS)
    own = {"name": "", "report": {}, "grid": {}}
    assert every | own == main | own
    assert every["grid"] | {"method": []} == main["grid"] | {"method": []}


def test_defaults_are_the_documented_ones() -> None:
    config = load_config(composed())
    assert (config.backbone.source, config.dtype, config.method.name) == ("tiny", "float32", "clasp")
    assert config.limit == config.benchmarks.limit
    assert config.wandb.mode is None
    assert composed("backbone=llava_1_5_7b", "policy=default")["policy"]["name"] == "default"
    assert config.wandb.enabled


def variant(values: dict[str, Any], row: str = "mine", reference: str | None = None) -> dict[str, Any]:
    """An experiment of the method CLASP and of one variant."""
    grid = {"method": ["clasp"], "variants": {row: values}, "tokens": [64]}
    return {"grid": grid, "report": {"reference": reference}}


@pytest.mark.parametrize(
    ("overrides", "place", "remedy"),
    [
        ({"tokenz": 64}, "'tokenz'", "tokens"),
        ({"wandb": {"enabled": "yes", "project": "clasp"}}, "wandb.enabled='yes'", "true or false"),
        ({"wandb": {"enabled": True}}, "'wandb.project'", "missing"),
        ({"batch_size": "8"}, "batch_size='8'", "whole number"),
        ({"batch_size": True}, "batch_size=True", "whole number"),
        ({"batch_size": 0}, "batch_size=0", "at least 1"),
        ({"limit": 0}, "limit=0", "all"),
        ({"limit": 1.5}, "limit=1.5", "all"),
        ({"dtype": "float8"}, "dtype='float8'", "bfloat16"),
        ({"device": "tpu"}, "'tpu'", "cuda"),
        ({"grid": {"tokens": 64}}, "grid.tokens=64", "[a,b]"),
        ({"report": {"figures": ["pie"]}}, "report.figures[0]='pie'", "heatmap"),
        (variant({"methud": {"name": "clasp"}}), "'methud' in grid.variants.mine", "fusion, method, policy, router"),
        (variant({"fusion": {"nam": "deep"}}), "'nam' in grid.variants.mine.fusion", "did you mean name?"),
        (variant({"method": {"completion": "random"}}), "'method.name'", "missing"),
        (variant({"policy": {"name": "p", "pivot_share": 2.0}}), "pivot_share=2.0", "[0, 1]"),
        (variant({"fusion": {"name": "custom", "weights": [0.5, 0.6]}}), "1.1", "sum to 1"),
        (variant({"router": {"name": "fixed", "category": "colour"}}), "'colour'", "attribute"),
        (variant({}, reference="his"), "report.reference='his' is no row", "use one of clasp, mine"),
        (variant({}, row="clasp"), "the row 'clasp' twice", "rename the variant"),
        (variant({}, row=" "), "the row ' '", "printable name"),
        (variant({}, row="two\nlines"), "two\\nlines", "printable name"),
        (variant({}, row="x" * 61), "x" * 61, "at most 60"),
    ],
)
def test_loader_is_strict(overrides: dict[str, Any], place: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(composed() | overrides)
    assert place in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
