"""``make status``: each cell in its one place, how long the rest takes, at once, whatever lies in the folders."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call
from synthetic import cell, planned

from clasp.launch.status import progress, status_report
from clasp.results import failures
from clasp.results.answer_log import AnswerLog
from clasp.results.lock import STALE_S, CellLocks, folder
from clasp.strict import ConfigError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "status.py"
DONE, RUNNING, FAILED, MISSING, STALLED = (f"{number:024x}" for number in range(5))
ELSEWHERE = {"host": "node9", "machine": "x", "pid": 7, "started": 1, "slurm_job": "42"}
ELSEWHERE |= {"questions": 100, "since": "2026-01-01T00:00:00+00:00"}


def record(root: Path, name: str, *signatures: str, benchmark: str = "pope") -> None:
    cells = [planned("fastv", 64, benchmark, cell=signature) for signature in signatures]
    (root / "experiments").mkdir(parents=True, exist_ok=True)
    (root / "experiments" / f"{name}.json").write_text(json.dumps({"schema": 2, "benchmarks": [], "cells": cells}))


def finish(root: Path, *signatures: str, questions: int = 100, seconds: int = 50, resumed: bool = False) -> None:
    """Cells, as far as they are looked at here."""
    made = {"started": "2026-01-01T00:00:00+00:00", "finished": f"2026-01-01T00:00:{seconds:02}+00:00"}
    events = {"events": [{"event": "resumed", "questions": 1}]} if resumed else {}
    (root / "cells").mkdir(parents=True, exist_ok=True)
    for signature in signatures:
        changes = {"signature": signature, "questions": questions, "provenance": {**made, **events}}
        text = json.dumps(cell("fastv", 64, "pope", [1.0], **changes))
        (root / "cells" / f"{signature}.json").write_text(text)


def take_lock(root: Path, signature: str, age_s: float = 1.0) -> None:
    """A lock of a process on another machine."""
    values = ELSEWHERE | {"label": f"tiny, cell {signature[-1]}"}
    path = folder(root) / f"{signature}.1.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    os.utime(path, (time.time() - age_s,) * 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A results root with a cell of each kind."""
    record(tmp_path, "table_tiny", DONE, RUNNING, FAILED, MISSING, STALLED)
    finish(tmp_path, DONE)
    take_lock(tmp_path, RUNNING)
    AnswerLog(tmp_path, RUNNING).add({f"question {number}": {} for number in range(25)})
    take_lock(tmp_path, STALLED, age_s=2 * STALE_S)
    failures.record(tmp_path, FAILED, "tiny, fastv at 64, pope", ValueError("no such image\nin the file"))
    return tmp_path


def test_every_cell_has_one_state(root: Path) -> None:
    (one,) = progress(root)
    assert (one.done, one.missing) == ((DONE,), (MISSING,))
    assert [each.lock.signature for each in one.running] == [RUNNING]
    assert [each.lock.signature for each in one.stalled] == [STALLED]
    assert [each.signature for each in one.failed] == [FAILED]
    assert one.share == pytest.approx(125 / 500)
    assert one.seconds_left == pytest.approx(375 / 2), "two questions a second, by one process"
    text = status_report([one], root)
    assert "table_tiny: 1 of 5 cells done, 1 running, 1 stalled, 1 failed, 1 missing" in text
    assert "[##########..............................] 25 %, about 3 min left" in text
    assert "tiny, cell 1: 25 of 100 questions, begun" in text
    assert re.search(r"by node9, process 7, SLURM job 42, sign of life \d+ s ago", text)
    assert re.search(r"fastv at 64, pope: ValueError: no such image in the file \(\d+ s ago; traceback in", text)
    assert f"failures/{FAILED}.json" in text

    take_lock(root, FAILED)
    (one,) = progress(root)
    assert not one.failed
    assert {each.lock.signature for each in one.running} == {RUNNING, FAILED}, "a failed cell that is being retried"
    finish(root, MISSING, seconds=1, resumed=True)
    assert progress(root)[0].pace == pytest.approx(2), "resumed cells tell nothing of it"
    finish(root, RUNNING, FAILED, STALLED)
    (one,) = progress(root)
    assert set(one.done) == {DONE, RUNNING, FAILED, STALLED, MISSING}, "a stored cell, whatever other files exist"
    assert (one.running, one.stalled, one.failed) == ((), (), ())


def test_a_local_process_counts_as_running_while_it_lives(tmp_path: Path) -> None:
    record(tmp_path, "table", RUNNING)
    with CellLocks(tmp_path) as locks:
        assert locks.take(RUNNING, "tiny, mine", 10) is not None
        (one,) = progress(tmp_path)
        assert [each.lock.label for each in one.running] == ["tiny, mine"]
        assert one.seconds_left is None
    assert progress(tmp_path)[0].missing == (RUNNING,)


def test_long_answer_logs_are_estimated_from_their_size(root: Path) -> None:
    take_lock(root, MISSING)
    answer_log = AnswerLog(root, MISSING)
    for number in range(90):
        answer_log.add({f"question {number:03}": {"text": "x" * 1_500}})
    running = {one.lock.signature: (one.answered, one.exact) for one in progress(root)[0].running}
    assert running == {RUNNING: (25, True), MISSING: (90, False)}
    assert "tiny, cell 3: about 90 of 100 questions" in status_report(progress(root), root)


def test_an_experiment_is_found_with_and_without_its_backbone(root: Path) -> None:
    record(root, "table_big", MISSING)
    record(root, "tables", MISSING)
    assert [one.name for one in progress(root, "table")] == ["table_big", "table_tiny"]
    assert [one.name for one in progress(root, "table_big")] == ["table_big"]
    with pytest.raises(ConfigError, match=r"no experiment 'nope' was begun .* here are table_big, table_tiny, tables"):
        progress(root, "nope")


def test_unreadable_experiments_are_errors_and_other_broken_files_do_no_harm(root: Path) -> None:
    (root / "cells" / f"{DONE}.json").write_text("[" * 100_000)
    (root / "cells" / "notes.txt").write_text("mine")
    (root / "cells" / f"{MISSING}.judge.json").write_text("{}")
    assert progress(root)[0].missing == (MISSING,)
    assert status_report(progress(root), root)
    for text in ("[]", '{"schema": 1}', '{"schema": 2, "cells": [3]}', "[" * 100_000, "\xff"):
        (root / "experiments" / "table_tiny.json").write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"table_tiny\.json cannot be used"):
            progress(root)


def test_exit_codes(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    record(root, "other", MISSING)
    codes = {(): 1, ("experiment=other",): 0, ("experiment=nope",): 2, ("experimet=table",): 2, ("watch=0",): 2}
    for words, code in codes.items():
        assert call(monkeypatch, root, f"results={root}", *words, script=SCRIPT) == code, words
    assert "no experiment was begun in" in status_report(progress(root / "empty"), root / "empty")
    assert capsys.readouterr().err.count("error: ") == 3

    monkeypatch.setattr(time, "sleep", lambda _: finish(root, RUNNING, FAILED, STALLED, MISSING))
    words = (f"results={root}", "experiment=table", "watch=10")
    assert call(monkeypatch, root, *words, script=SCRIPT) == 0, "watching ends when all is done"


def test_five_thousand_cells_take_less_than_two_seconds(tmp_path: Path) -> None:
    """CPU time, including Python's start; wall time would depend on other processes."""
    signatures = [f"{number:024x}" for number in range(5_000)]
    record(tmp_path, "big", *signatures)
    finish(tmp_path, signatures[0])
    for signature in signatures[1:4_900]:
        os.link(tmp_path / "cells" / f"{signatures[0]}.json", tmp_path / "cells" / f"{signature}.json")
    for signature in signatures[4_900:]:
        take_lock(tmp_path, signature)
    code = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('heavy:', sorted({'torch', 'transformers', 'hydra', 'numpy'} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, str(SCRIPT), f"results={tmp_path}"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "big: 4,900 of 5,000 cells done, 100 running" in done.stdout
    assert "heavy: []" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
