"""Invalid input of the three benchmarks gives a one-sentence error before a model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import harness, main, models
from benchmarks.gpu_check import main as gpu_check

SMALL = ["limit=2", "methods=none,random", "tokens=64", "benchmarks=tiny_textvqa"]


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (harness, [*SMALL, "limt=3"], ["'limt'", "did you mean limit?"]),
        (harness, [*SMALL, "limit=0"], ["at least 1"]),
        (harness, [*SMALL, "tokens=900"], ["900", "576"]),
        (harness, [*SMALL, "methods=fastvee"], ["fastvee", "fastv"]),
        (harness, [*SMALL, "benchmarks=tiny_textvqb"], ["tiny_textvqb", "tiny_textvqa"]),
        (main, ["geometry=huge"], ["'huge'", "tiny, small"]),
        (main, ["batches=0"], ["at least 1"]),
        (main, ["methods=fastvee"], ["fastvee"]),
        (main, ["tokens=900", "geometry=tiny"], ["900", "576"]),
        (main, ["tokens=5000", "geometry=llava_next_7b"], ["5000", "2880"]),
        (main, ["measure=growth", "geometry=qwen2_5_vl_7b"], ["qwen2_5_vl_7b", "llava_1_5_7b"]),
        (main, ["measure=growth", "geometry=tiny", "sizes=300"], ["300", "256"]),
        (main, ["measure=ops", "sizes=512,256"], ["512,256", "smallest first"]),
        (main, ["measure=ops", "threads=0"], ["at least 1"]),
        (gpu_check, ["geometry=large"], ["'large'", "full"]),
        (gpu_check, ["geometry=small", "methods=fastvee"], ["fastvee", "fastv"]),
        (gpu_check, ["geometry=small", "families=llama", "parts=matrix"], ["llama", "llava_next"]),
        (gpu_check, ["geometry=small", "minutes=0"], ["minutes=0"]),
        (gpu_check, [], ["geometry=small"]),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence(
    command: Any,
    arguments: list[str],
    words: list[str],
    data_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models.LoadedModel, "__init__", lambda *_: pytest.fail("a model was built"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    more = {harness: [f"data={data_root}"], main: ["device=cpu"]}.get(command, [])
    assert command.main([*arguments, *more, f"results={tmp_path}"], "") == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    for word in words:
        assert word in said
    assert not list(tmp_path.iterdir())
