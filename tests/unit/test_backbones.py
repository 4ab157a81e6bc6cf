"""Loading, counts without weights, and the public face of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoConfig

import clasp
from clasp import backbones
from clasp.backbones import ADAPTERS, PUBLISHED, adapter_for, geometry, load
from clasp.backbones.base import UnsupportedError
from clasp.backbones.llava import LlavaAdapter
from clasp.backbones.published import SHIPPED

ROOT = Path(__file__).resolve().parents[2]


def test_every_backbone_configuration_names_a_published_model_and_its_count() -> None:
    files = {path.stem: OmegaConf.load(path) for path in (ROOT / "configs" / "backbone").glob("*.yaml")}
    assert geometry(files["tiny"].source).visual_tokens == files.pop("tiny").visual_tokens
    assert {config.source: config.visual_tokens for config in files.values()} == {
        name: published.geometry.visual_tokens for name, published in PUBLISHED.items()
    }
    assert all(config.name == stem for stem, config in files.items())


def test_shipped_counts_equal_the_shipped_configuration() -> None:
    config = AutoConfig.from_pretrained(backbones.resolve("tiny"))
    assert config.architectures == [SHIPPED.architecture]
    assert LlavaAdapter.geometry_of(config) == SHIPPED.geometry


def test_published_counts_need_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    for name, published in {**PUBLISHED, "tiny": SHIPPED}.items():
        assert geometry(name) is published.geometry
        assert backbones.adapter_module(name) == ADAPTERS[published.architecture][0]


def test_a_backbone_that_is_not_here_is_one_sentence(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "nobody/no-such-model"):
        with pytest.raises(backbones.BackboneUnavailable, match=r"not on this machine.*use backbone=tiny"):
            load(name)


def test_gemma_3_is_refused_with_the_reason() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(Gemma3Config())
    kinds = set(model.config.text_config.layer_types)
    assert kinds == {"sliding_attention", "full_attention"}, "what the reason says is so"
    with pytest.raises(UnsupportedError, match=r"Gemma3ForConditionalGeneration.*two masks.*use one of Llava"):
        adapter_for(model)


def test_a_class_without_an_adapter_lists_those_that_have_one() -> None:
    known = r"no adapter for Linear; known: .*A new family is one file in clasp/backbones/"
    with pytest.raises(UnsupportedError, match=known) as caught:
        adapter_for(nn.Linear(2, 2))
    assert all(architecture in str(caught.value) for architecture in ADAPTERS)


def test_an_older_transformers_is_refused_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = "transformers>=" + ".".join(map(str, backbones.TRANSFORMERS))
    assert needed in project["dependencies"]
    model, _ = load("tiny")
    message = rf"transformers {{}} is installed, but .* need {needed[14:]} or newer; run pip install '{needed}'"
    for installed in ("4.57.6", "5.9.0", "5.22.1"):
        monkeypatch.setattr("clasp.backbones._installed_transformers", lambda installed=installed: installed)
        for call in (lambda: load("tiny"), lambda: load(model), lambda: adapter_for(model)):
            with pytest.raises(UnsupportedError, match=message.format(installed)):
                call()
    for installed in ("5.23.0", "5.100.0.dev0", "6.0"):
        monkeypatch.setattr("clasp.backbones._installed_transformers", lambda installed=installed: installed)
        assert adapter_for(model).geometry == geometry("tiny")


def test_every_export_resolves() -> None:
    for name in clasp.__all__:
        assert getattr(clasp, name).__name__
    with pytest.raises(AttributeError, match="no attribute 'FastVV'"):
        clasp.FastVV  # noqa: B018
