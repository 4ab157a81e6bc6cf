"""Backbones' files run no code: pickles and repositories with code are refused, unless a switch allows them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clasp.backbones import PUBLISHED, BackboneRefused, Trust, check_trust, geometry, load
from clasp.backbones.clip_text import clip_text
from clasp.backbones.published import CONVERTED
from clasp.evaluation.identity import weights_fingerprint
from clasp.tiny import directory

Edit = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped model, saved as its own folder."""
    return Path(shutil.copytree(directory(), tmp_path / "saved"))


def pickled(folder: Path) -> None:
    """Beside safetensors that are not the model's: of an adapter, and in a subfolder for another runtime."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "openvino").mkdir()
    (folder / "openvino" / "model.safetensors").write_bytes(b"")


def coded(name: str, reference: str = "own.Own") -> Edit:
    """A folder whose file ``name`` names a class of its own, in a module that leaves a file when it runs."""
    key = {"config.json": "AutoConfig", "processor_config.json": "AutoProcessor"}.get(name, "AutoTokenizer")

    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, "auto_map": {key: reference}}))
        (folder / "own.py").write_text(
            f"open({str(folder / 'ran')!r}, 'w')\n"
            "from transformers import LlavaProcessor\nclass Own(LlavaProcessor): ...\n"
        )

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (pickled, r"pickle.*pytorch_model\.bin.*docs/real-models\.md.*backbone\.allow_pickle=true"),
        (coded("config.json"), r"config\.json.*trust_remote_code=true"),
        (coded("processor_config.json"), r"processor_config.*trust_remote_code"),
        (coded("tokenizer_config.json"), r"tokenizer_config.*trust_remote_code"),
    ],
    ids=["pickle", "model", "processor", "tokenizer"],
)
def test_what_could_run_code_is_refused_before_anything_loads(
    folder: Path, edit: Edit, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", None)
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", None)
    with pytest.raises(BackboneRefused, match=words) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    assert not (folder / "ran").exists()


def test_code_is_refused_where_only_a_configuration_or_a_processor_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coded("processor_config.json")(folder)
    model, _ = load("tiny")
    monkeypatch.setattr(model, "name_or_path", str(folder))
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    for loads in (lambda: geometry(str(folder)), lambda: load(model)):
        with pytest.raises(BackboneRefused, match=r"processor_config.*trust_remote_code=true"):
            loads()


def test_a_switch_allows_code(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    coded("processor_config.json")(folder)
    processor = load(str(folder), trust_remote_code=True)[1]
    assert type(processor).__name__ == "Own"
    assert (folder / "ran").exists()


def test_a_switch_allows_a_pickle(folder: Path) -> None:
    expected = load(str(folder))[0].state_dict()
    pickled(folder)
    model, _ = load(str(folder), allow_pickle=True)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", CONVERTED)
def test_a_checkpoint_for_other_code_names_the_one_to_use(name: str) -> None:
    """Before any hub is asked; most of them are pickles too."""
    assert CONVERTED[name] in PUBLISHED
    for ask in (load, geometry, check_trust):
        with pytest.raises(BackboneRefused, match=f"{name!r} is in the format of .* own code; use {CONVERTED[name]}"):
            ask(name)


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["pytorch_model.bin", "tf_model.h5", "config.json"], True),  # openai/clip-vit-large-patch14-336
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], True),
        (["onnx/model.safetensors", "pytorch_model.bin"], True),
        (["model.safetensors", "pytorch_model.bin"], False),
        (["model-00001-of-00003.safetensors", "model.safetensors.index.json"], False),
        (["model.fp16.safetensors"], False),
    ],
)
def test_a_repository_is_judged_by_the_weights_that_are_read(
    names: list[str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clasp.backbones.trust.hub_commit", lambda source, revision: "0" * 40)
    monkeypatch.setattr("clasp.backbones.trust.hub_names", lambda source, commit: frozenset(names) - {"config.json"})
    with pytest.raises(BackboneRefused, match="pickle alone") if refused else nullcontext():
        check_trust("someone/something")


def test_a_pickled_text_tower_is_refused_with_a_remedy(folder: Path) -> None:
    pickled(folder)
    with pytest.raises(BackboneRefused, match=r"text_tower=.*pickle alone.*real-models\.md.*name that folder"):
        clip_text(str(folder), "cpu")


def test_safetensors_are_taken_where_there_are_both(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    for allowed in (False, True):
        load(str(folder), allow_pickle=allowed)


def test_code_is_part_of_the_fingerprint_where_it_is_run(folder: Path) -> None:
    before = weights_fingerprint(str(folder))
    coded("config.json")(folder)
    check_trust(str(folder), trust=Trust(trust_remote_code=True))
    found = {weights_fingerprint(str(folder), code=code) for code in (False, True)}
    (folder / "own.py").write_text("class Own: ...\n")
    changed = {weights_fingerprint(str(folder), code=code) for code in (False, True)}
    assert len({before} | found | changed) == 4, "the configuration counts always, the code where it is run"


def test_code_of_another_repository_is_refused_in_any_case(folder: Path) -> None:
    coded("config.json", "someone/else--own.Own")(folder)
    with pytest.raises(BackboneRefused, match=r"another repository \(someone/else--own\.Own.*no revision pins"):
        check_trust(str(folder), trust=Trust(trust_remote_code=True))


def test_a_cached_hub_repository_is_checked_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    coded("config.json")(folder)
    shutil.copytree(folder, cached / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision in (None, commit):
        with pytest.raises(BackboneRefused, match=r"some/model.*trust_remote_code=true"):
            load("some/model", revision=revision)
