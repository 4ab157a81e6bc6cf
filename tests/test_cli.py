"""The command line as a user types it: end to end, twice, and with every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import SCRIPT, call
from hydra.errors import MissingConfigException

from clasp.cli import jobs, report
from clasp.evaluation.generation.answering import Answerer, EvaluationError

SMALL = ("limit=2", "wandb.enabled=false")


def run_script(folder: Path, *arguments: str) -> str:
    """What ``clasp-eval run`` prints in a process of its own, with ``folder`` as working directory."""
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path) -> dict[Path, tuple[int, bytes]]:
    cells = folder / "results" / "cells"
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in cells.iterdir()}


def test_end_to_end_twice(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["method=clasp", "tokens=64", "fusion=deep", "limit=2", f"paths.data={data_root}"]
    first = run_script(tmp_path, "backbone=tiny", "benchmarks=tiny", *arguments)
    assert "8 cells computed, 0 were there already, 0 failed" in first
    assert "tiny_textvqa" in first
    cells = [json.loads(path.read_text()) for path in (tmp_path / "results" / "cells").glob("*.json")]
    assert len(cells) == 8
    assert {cell["identity"]["method"]["parameters"]["fusion"]["name"] for cell in cells} == {"deep"}
    assert all(cell["provenance"]["command"].startswith("run.py backbone=tiny") for cell in cells)
    assert {path.name for path in tmp_path.iterdir()} == {"results"}, "nothing is written elsewhere"

    before = written(tmp_path)
    assert call(monkeypatch, tmp_path, *arguments) == 0
    second = capsys.readouterr()
    assert "0 cells computed, 8 were there already, 0 failed" in second.out
    assert "loading" not in second.out + second.err, "no model is loaded"
    assert written(tmp_path) == before


def test_no_home_folder_and_no_secret_reaches_a_file(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep with planted ones, its W&B runs, logs, tables and page: every byte below the results is looked at."""
    folder = tmp_path / "planted-home" / "work"
    folder.mkdir(parents=True)
    planted = {"HF_TOKEN": "planted-token-81726", "OPENAI_API_KEY": "planted-key-5551", "WANDB_API_KEY": "5ead" * 10}
    for name, value in {**planted, "HOME": str(folder.parent), "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    run_script(
        folder,
        *["-m", "grid.method=[none,random]", "grid.tokens=[64]", "limit=12", "benchmarks.names=[tiny_gqa]"],
        *[f"report.title={planted['HF_TOKEN']}", f"paths.results={folder}/results", f"paths.data={data_root}"],
    )
    assert len(list((folder / "results" / "wandb").glob("offline-run-*"))) == 2, "one for each finished group"

    monkeypatch.chdir(folder)
    assert report.main(["experiment=all", f"results={folder}/results", "wandb=offline"]) == 0
    files = [path for path in (folder / "results").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files} | {path.name for path in files}
    assert {".json", ".jsonl", ".log", ".wandb", ".md", ".csv", ".tex", ".svg", "report.html", "multirun.yaml"} <= kinds
    for path in files:
        content = path.read_bytes()
        for value in (*planted.values(), folder.parent.name):
            assert value.encode() not in content, f"{value} in {path.relative_to(folder)}"


def test_a_sweep_goes_on_after_bad_input_and_says_so(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", "method=none,random", "tokens=8,999", "benchmarks.names=[tiny_gqa]", f"paths.data={data_root}"]
    assert call(monkeypatch, tmp_path, *SMALL, *arguments) == jobs.BAD_INPUT
    errors = capsys.readouterr().err
    assert errors.count("error: tokens=999 is more than the 576 visual tokens") == 2
    assert "Traceback" not in errors
    assert len(list((tmp_path / "results" / "cells").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["backbone=llava"], ["unknown backbone 'llava'", "llava_1_5_7b, llava_next_7b"]),
        (["method=fastvee"], ["unknown method 'fastvee'", "cdpruner, clasp, dart, divprune, downsample"]),
        (["experiment=nope"], ["unknown experiment 'nope'", "table_llava15", "tiny_main"]),
        (["experiment=ablation_fusion", "report.reference=F"], ["'F' is no row", "none, random, A shallow"]),
        (["policy.categories.colour.pivot_share=0.5"], ["unknown key 'colour'", "attribute, counting"]),
        (["tokns=64"], ["unknown key 'tokns'", "did you mean tokens?"]),
        (["wandb.enable=false"], ["unknown key 'enable' in wandb", "did you mean enabled?"]),
        (["method.stages=[1]"], ["unknown key 'stages' in method", "stage_layers"]),
        (["fusion=deep", "fusion.weights=[1]"], ["the chosen fusion takes no 'weights'"]),
        (["tokens"], ["override 'tokens'", "key=value"]),
        (["tokens=64", "ratio=0.889"], ["tokens=64", "ratio=0.889", "one of the two"]),
        (["experiment=tiny_main", "tokens=64"], ["192, 128, 64", "grid.tokens=[64]"]),
        (["tokens=577"], ["tokens=577", "1 to 576", "method=none"]),
        (["ratio=1.0"], ["ratio=1.0", "[0, 1)"]),
        (["method=clasp"], ["needs a budget", "tokens=64"]),
        (["tokens=64", "fusion=custom"], ["'fusion.weights'", "has no value"]),
        (["tokens=64", "policy.categories.ocr.weights=[0.5,0.6,0,0]"], ["0.6", "sum to 1"]),
        (["backbone=llava_1_5_7b", "tokens=64", "benchmarks=paper8"], ["llava-hf/llava-1.5-7b-hf", "backbone=tiny"]),
    ],
    ids=str,
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    data_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, tmp_path, f"paths.data={data_root}", *arguments) == jobs.BAD_INPUT
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / "results" / "cells").exists()


def test_tracebacks_are_shown_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(MissingConfigException):
        call(monkeypatch, tmp_path, "backbone=llava")


def test_a_failed_cell_is_exit_code_1(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise EvaluationError("broken on purpose")

    monkeypatch.setattr(Answerer, "answer", failing)
    arguments = ["tokens=64", "benchmarks.names=[tiny_textvqa]", f"paths.data={data_root}"]
    assert call(monkeypatch, tmp_path, *SMALL, *arguments) == jobs.FAILED
    assert "failed: tiny, clasp at 64, tiny_textvqa" in capsys.readouterr().err
