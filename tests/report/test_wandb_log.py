"""Weights & Biases: what an offline run holds, that nothing leaves the machine, and when it goes online."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import ROOT
from synthetic import BENCHMARKS, Root, cell

from clasp.report.wandb_log import Logged, _rows, choose_mode, log_group, log_report

pytestmark = pytest.mark.xdist_group("wandb")  # one process for all


@dataclass(frozen=True)
class Settings:
    enabled: bool = True
    project: str = "clasp-test"
    mode: Any = None
    entity: str | None = None


def group(method: str, tokens: int) -> list[dict[str, Any]]:
    return [cell(method, tokens, name, [1.0, 0.0, 1.0]) for name in BENCHMARKS]


# logs two groups, one of them again, and a report twice; Python's own sockets may only reach this machine
SCRIPT = """
import json, socket, sys
from pathlib import Path
from test_wandb_log import Settings, group
from clasp.report.build import build_everything
from clasp.report.wandb_log import log_group, log_report
from synthetic import write_experiment

def refuse(*args, **kwargs):
    raise AssertionError(f"a network name was looked up: {args}")
socket.getaddrinfo = refuse
connect = socket.socket.connect
def local(self, address):
    assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", address
    return connect(self, address)
socket.socket.connect = local

out = {}
off = log_group(group("clasp", 64), Settings(enabled=False), results=Path("results"))
out["off"] = [off.status, "wandb" in sys.modules, Path("results").exists()]
groups = [group("clasp", 64), group("fastv", 64), group("clasp", 64)]
logged = [log_group(cells, Settings(), experiment="tiny_main", results=Path("results")) for cells in groups]
out["logged"] = [[one.status, one.message] for one in logged]
write_experiment(Path("results"), questions=20, methods=("random", "fastv"))
page, (built,) = build_everything(Path("results"))
reports = [log_report(built.summary.experiment, Settings(), page) for _ in range(2)]
out["reports"] = [[one.status, one.message] for one in reports]
print(json.dumps(out))
"""


def folder_in(message: str) -> Path:
    """The run's folder, as the sentence for people names it."""
    return Path(message.partition("the W&B run ")[2].partition(";")[0])


def records(folder: Path) -> dict[str, Any]:
    """The run and the summary in an offline run's log."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store, found = DataStore(), {}
    store.open_for_scan(str(next(folder.glob("run-*.wandb"))))
    while data := store.scan_data():
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            found["run"] = record.run
        if record.artifact.type == "report":
            found["artifact"] = record.artifact
        for item in record.summary.update:
            key = item.key or "/".join(item.nested_key)
            found[key] = json.loads(item.value_json)
    return found


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :data:`SCRIPT` did in a folder of its own, beside a W&B server that nobody may visit."""
    folder = tmp_path_factory.mktemp("offline")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent))),
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
        }
        (folder / "home").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=folder, env=environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):  # the queue of connections is empty
            server.accept()
    assert "wandb" not in done.stderr
    (line,) = done.stdout.splitlines()
    return {"folder": folder, **json.loads(line)}


def test_offline_run_holds_id_group_job_type_config_and_scores(offline: dict[str, Any]) -> None:
    status, message = offline["logged"][0]
    where = folder_in(message)
    found = records(where)
    run = found["run"]
    assert (status, where.parent) == ("offline", offline["folder"] / "results" / "wandb")
    assert (len(run.run_id), run.run_group, run.job_type) == (16, "tiny_main", "clasp")
    assert (run.project, run.display_name) == ("clasp-test", "tiny-clasp-64")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["method"] == {"name": "clasp", "parameters": {"seed": 0}}
    assert config["budget"]["tokens"] == 64
    assert "benchmark" not in config
    assert len(config["signatures"]) == 7
    assert found["score/tiny_textvqa"] == pytest.approx(2 / 3)
    assert found["questions/easy_vqa"] == 3
    table = json.loads(next(where.rglob("*.table.json")).read_text())
    assert [line[1] for line in table["data"]] == list(BENCHMARKS)
    assert len(table["columns"]) == len(table["data"][0])


def test_report_is_one_run_with_the_rows_and_an_artifact_of_the_files(offline: dict[str, Any]) -> None:
    (status, where), again = ((status, folder_in(message)) for status, message in offline["reports"])
    assert (status, where) == again == ("offline", again[1])
    found = records(where)
    run = found["run"]
    assert (run.run_group, run.job_type, run.display_name) == ("tiny_main", "report", "report-tiny_main")
    assert found["average/none/576"] == 1.0
    assert {f"average/random/{tokens}" for tokens in (192, 128, 64)} <= set(found)
    files = {entry.path for entry in found["artifact"].manifest.contents}
    names = {f"tiny_main.{suffix}" for suffix in ("md", "csv", "tex")} | {"report.html"}
    assert files == names | {f"accuracy_vs_flops_tiny_main.{suffix}" for suffix in ("png", "svg")}
    table = json.loads(next(where.rglob("rows*.table.json")).read_text())
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert [line["row"] for line in lines] == ["none", *["random", "fastv"] * 3]
    assert lines[1]["budget"] == 192
    assert lines[0]["normalized_average_low"] is None
    assert lines[1]["tiny_textvqa_low"] <= lines[1]["tiny_textvqa"] <= lines[1]["tiny_textvqa_high"]


def test_columns_have_one_type_each(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('row,p,batch_size\nnone,1,8\nNA,,"8, 16"\nb,2.5e-3,\n')
    columns, lines = _rows(tmp_path / "rows.csv")
    assert columns == ["row", "p", "batch_size"]
    assert lines == [["none", 1.0, "8"], ["NA", None, "8, 16"], ["b", 0.0025, None]]


def test_nothing_is_logged_twice_and_nothing_leaves_the_results(offline: dict[str, Any]) -> None:
    assert offline["off"] == ["disabled", False, False], "nor is anything imported or written where it is off"
    first, second, again = (folder_in(message) for _, message in offline["logged"])
    assert first == again != second
    assert len(list((offline["folder"] / "results" / "wandb").glob("offline-run-*"))) == 3  # and one report
    assert sorted(path.name for path in offline["folder"].iterdir()) == ["home", "results"]
    assert list((offline["folder"] / "home").rglob("*wandb*")) == []


def test_a_run_is_known_by_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cells in any order are one run, others another one; a run's configuration is what its cells share."""
    inits: list[dict[str, Any]] = []
    monkeypatch.setattr("clasp.report.wandb_log._log", lambda what, init, *_: inits.append(init))
    cells, root = group("clasp", 64), Root(tmp_path).write(questions=10)
    for some in (cells, cells[::-1], cells[:1]):
        log_group(some, Settings())
    for _ in range(2):
        log_report(root.experiment(), Settings())
    root.remove(("clasp", 64, "easy_vqa"))
    log_report(root.experiment(), Settings())
    groups, reports = inits[:3], inits[3:]
    for same, again, other in (groups, reports):
        assert same["id"] == again["id"] != other["id"]
    assert ["benchmark" in init["config"] for init in groups] == [False, False, True]


def test_cells_of_several_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="one backbone, method and budget"):
        log_group(group("clasp", 64) + group("clasp", 128), Settings())
    with pytest.raises(ValueError, match="none"):
        log_group([], Settings())


@pytest.mark.parametrize(
    ("variable", "configured", "saved", "key", "expected"),
    [
        (None, None, "online", None, "offline"),
        (None, None, "online", "k", "online"),
        (None, None, "offline", "k", "offline"),
        (None, "offline", "online", "k", "offline"),
        ("online", "offline", "offline", None, "online"),
        ("disabled", None, "online", "k", "disabled"),
    ],
)
def test_mode(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, configured: Any, saved: str, key: str | None, expected: str
) -> None:
    monkeypatch.delenv("WANDB_IDENTITY_TOKEN_FILE", raising=False)
    monkeypatch.setenv("WANDB_MODE", variable or "")
    settings = SimpleNamespace(settings=SimpleNamespace(mode=saved))
    wandb = SimpleNamespace(setup=lambda: settings, api=SimpleNamespace(api_key=key))
    assert choose_mode(wandb, Settings(mode=configured)) == expected


def test_a_server_that_cannot_be_reached_is_tried_once_and_the_runs_are_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    asked = []

    def write(_: Any, mode: str, *__: Any) -> Logged:
        asked.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no answer")
        return Logged(mode, "")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("clasp.report.wandb_log._write", write)
    statuses = [log_group(group("clasp", tokens), Settings(), results=tmp_path).status for tokens in (64, 128)]
    assert statuses == ["offline", "offline"]
    assert asked == ["online", "offline", "offline"]


def test_a_failure_is_reported_and_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb").write_text("a file where the folder should be")
    outcome = log_group(group("clasp", 64), Settings(), results=tmp_path)
    assert outcome.status == "failed"
    assert "the results files are complete" in outcome.message
    assert [record.levelname for record in caplog.records if record.name.startswith("clasp")] == ["WARNING"]
