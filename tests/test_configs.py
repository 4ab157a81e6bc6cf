"""Every configuration composes, loads strictly, and names what the library knows."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clasp.config import RunConfig, load_config
from clasp.evaluation.benchmarks import BENCHMARKS
from clasp.fusion import FUSIONS
from clasp.methods import METHODS, get
from clasp.router import ROUTERS
from clasp.strict import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NEEDED = {("fusion", "custom"): ["fusion.weights=[0.5,0.5]"]}
CHOICES = sorted((path.parent.name, path.stem) for path in CONFIGS.glob("*/*.yaml"))


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS)):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="=".join)
def test_every_choice_composes(group: str, choice: str) -> None:
    config = load_config(composed(f"{group}={choice}", *NEEDED.get((group, choice), [])))
    assert isinstance(config, RunConfig)
    chosen = getattr(config, group, None)
    if group != "paths" and chosen is not None:
        assert chosen.name == choice


def test_choices_are_what_the_library_knows() -> None:
    stems = {group: {choice for g, choice in CHOICES if g == group} for group, _ in CHOICES}
    assert stems["method"] == set(METHODS)
    assert stems["fusion"] == {*FUSIONS, "custom"}
    assert stems["router"] == set(ROUTERS)
    for choice in stems["benchmarks"]:
        assert set(load_config(composed(f"benchmarks={choice}")).benchmarks.names) <= set(BENCHMARKS)


@pytest.mark.parametrize("name", METHODS)
def test_method_files_list_every_parameter_without_a_value(name: str) -> None:
    own_groups = {"tokens", "ratio", "seed", "fusion", "policy", "router"}
    method = composed(f"method={name}")["method"]
    fields = {field.name for field in dataclasses.fields(get(name))} - own_groups
    if not get(name).prunes or len(get(name).accountings) == 1:
        fields -= {"accounting"}  # nothing to choose
    if not get(name).prunes:
        fields -= {"positions"}
    assert set(method) - {"name"} == fields
    assert all(value is None for key, value in method.items() if key != "name")


@pytest.mark.parametrize("group", ["backbone", "method", "benchmarks", "experiment"])
def test_lists_in_comments_name_every_choice(group: str) -> None:
    """A group's comment, over its line and the comment lines below it: what it is, a colon, the choices."""
    text = (CONFIGS / "config.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^  - {group}: \w+ +#[^:]+: (.*(?:\n +#.*)*)", text, re.MULTILINE)
    assert found is not None
    assert sorted(re.findall(r"\w+", found[1])) == [choice for g, choice in CHOICES if g == group]


def test_the_methods_table_is_the_main_table_with_every_method() -> None:
    """All else equal, so that the two share their cells."""
    main, every = (composed(f"experiment={name}") for name in ("tiny_main", "tiny_methods"))
    assert every["grid"]["method"] == list(METHODS)
    assert set(main["grid"]["method"]) <= set(METHODS)
    assert {**every, "name": "", "grid": {**every["grid"], "method": []}} == {
        **main,
        "name": "",
        "grid": {**main["grid"], "method": []},
    }


def test_defaults_are_the_documented_ones() -> None:
    config = load_config(composed())
    assert (config.backbone.source, config.dtype, config.method.name) == ("tiny", "float32", "clasp")
    assert config.limit == config.benchmarks.limit
    assert config.wandb.mode is None
    assert config.wandb.enabled


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
        ({"limit": "some"}, "limit='some'", "all"),
        ({"dtype": "float8"}, "dtype='float8'", "bfloat16"),
        ({"device": "tpu"}, "'tpu'", "cuda"),
        ({"seed": None}, "seed=None", "whole number"),
        ({"grid": {"tokens": 64}}, "grid.tokens=64", "[a,b]"),
        ({"name": "a/b"}, "name='a/b'", "letters"),
    ],
)
def test_loader_is_strict(overrides: dict[str, Any], place: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(composed() | overrides)
    assert place in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
