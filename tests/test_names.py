"""Names in configurations, arguments and results files cannot lead out of the results folder."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import composed
from hydra import compose, initialize_config_dir

from clasp.cli import commands
from clasp.cli.hydra_guard import Redacted
from clasp.cli.jobs import POLICIES
from clasp.cli.judge import main as judge
from clasp.config import load_config
from clasp.evaluation.calibration.run import policy_path
from clasp.evaluation.questions.custom import read
from clasp.report.build import build_everything
from clasp.report.load import ReportError, load_experiment
from clasp.results import experiments
from clasp.results.store import CellStore
from clasp.strict import ConfigError

ROOT = Path(__file__).resolve().parents[1]
BAD = ["../../x", "/tmp/x", "a/b", "..", ".", "", "a\0b", "x" * 300, "é", "a b"]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return composed("tokens=64")


@pytest.mark.parametrize("bad", BAD)
def test_names_in_configurations(values: dict[str, Any], bad: str) -> None:
    backbone, report = values["backbone"], values["report"]
    for changed in ({"name": bad}, {"backbone": backbone | {"name": bad}}, {"report": report | {"published": bad}}):
        with pytest.raises(ConfigError, match=r"(name|published)=.* (letters|characters)"):
            load_config(values | changed)


@pytest.mark.parametrize("bad", BAD)
def test_names_in_arguments(tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    results = tmp_path / "results"
    store = CellStore(results)
    for make in (store.path, partial(experiments.path, results)):
        with pytest.raises(ValueError, match=r"signature|names files|characters"):
            make(bad)
    with pytest.raises(ReportError):
        load_experiment(bad, results)
    assert judge([f"experiment={bad}", f"results={results}"]) == 2
    assert commands.main("submission", [f"cell={bad}", f"results={results}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not results.exists()


def test_the_policy_file(values: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(values | {"paths": {"results": str(tmp_path / "results"), "data": "data"}})
    assert policy_path(None, config, POLICIES) == POLICIES / "tiny.yaml"
    for good in (tmp_path / "results" / "mine.yaml", POLICIES / "mine.yaml"):
        assert policy_path(str(good), config, POLICIES) == good
    for bad in (*BAD, "../x.yaml", "/tmp/x.yaml", f"{POLICIES}/../x.yaml", f"{POLICIES}/x.py", 3):
        with pytest.raises(ConfigError, match="policy_file"):
            policy_path(bad, config, POLICIES)


@pytest.mark.parametrize("stem", ["a b", "x" * 101, "é", "a-b"])
def test_names_of_own_data(tmp_path: Path, stem: str) -> None:
    with pytest.raises(ConfigError, match="benchmark"):
        read(tmp_path / f"{stem}.jsonl")


def test_names_in_results_files(tmp_path: Path) -> None:
    """A retention run that names a place outside, and an experiment whose cell is a path."""
    results = tmp_path / "results"
    (results / "retention").mkdir(parents=True)
    (results / "experiments").mkdir()
    stored = json.loads((ROOT / "results" / "reference" / "retention" / "tiny.json").read_text())
    (results / "retention" / "tiny.json").write_text(json.dumps(stored | {"name": "../../evil"}))
    shutil.copy(ROOT / "results" / "reference" / "experiments" / "tiny_main.json", results / "experiments")
    with pytest.raises(ReportError, match=r"evil.*run 'clasp-eval retention' again"):
        build_everything(results)
    path = results / "experiments" / "tiny_main.json"
    record = json.loads(path.read_text())
    record["cells"][0]["signature"] = "../../../etc/passwd"
    path.write_text(json.dumps(record))
    with pytest.raises(ReportError, match=r"cells\[0\]\.signature.*24 hex digits"):
        load_experiment("tiny_main", results)
    assert not list(tmp_path.glob("evil*"))


def test_hydra_makes_no_folder_of_a_bad_name(tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "configs")):
        config = compose("config", ["name=../../evil", f"paths.results={tmp_path}/results"], return_hydra_config=True)
    with pytest.raises(Exception, match=r"name='\.\./\.\./evil' names files"):
        str(config.hydra.run.dir)
    Redacted().on_multirun_end(config)  # nothing to clean
