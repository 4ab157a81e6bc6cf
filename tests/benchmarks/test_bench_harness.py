"""The harness benchmark: its setups match their names, its times add up, and it detects differing answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness

SMALL = ["limit=2", "methods=none,random", "tokens=64", "benchmarks=tiny_textvqa", "threads=1"]


def test_setups_are_as_named_and_numbers_follow_from_each_other(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clasp.evaluation.generation.answering import Answerer

    used, answer = list[Any](), Answerer.answer

    def watched(self: Any, questions: Any, *arguments: Any) -> Any:
        used.append((self.batch_size, self._vit_cache._limit > 0, self.overlap, len(questions)))
        return answer(self, questions, *arguments)

    monkeypatch.setattr(Answerer, "answer", watched)
    assert harness.main([*SMALL, f"data={data_root}", f"results={tmp_path}"], "") == 0
    assert Answerer.overlap, "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["bench"], "the cells went elsewhere"
    warm, rest = used[:2], used[2:]
    assert [count for *_, count in warm] == [1, 1]
    assert rest == [*[(1, False, False, 2)] * 2, *[(8, False, True, 2)] * 2, *[(8, True, True, 2)] * 2]

    table = (tmp_path / "bench" / "harness.md").read_text()
    for words in ("| loop |", "| no cache |", "| default |", "the same", "| none |", "| random at 64 |"):
        assert words in table
    found = json.loads((tmp_path / "bench" / "harness.json").read_text())
    arms = found["arms"]
    assert list(arms) == ["loop", "no cache", "default"]
    assert (found["cells"], found["questions"]) == (2, 4)
    for arm in arms.values():
        assert arm["questions_per_second"] == pytest.approx(4 / arm["seconds"])
        assert set(arm["rows"]) == {"none", "random at 64"}
        assert 0 < sum(arm["rows"].values()) <= arm["seconds"]
    assert found["speedup_over_loop"] == pytest.approx(arms["loop"]["seconds"] / arms["default"]["seconds"])
    assert found["saved_by_cache"] == pytest.approx(1 - arms["default"]["seconds"] / arms["no cache"]["seconds"])
    assert sum(arm["seconds"] for arm in arms.values()) < found["seconds"]
    assert found["identical"] is True
    assert found["different_answers"] == {"loop": 0, "no cache": 0, "default": 0}


def test_other_answers_are_reported_and_are_a_failure(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def timed(config: Any, overlap: bool) -> dict[str, Any]:
        said = "red" if overlap else "blue"
        answers = {("cell", "0"): (said, 1.0, None), ("cell", "1"): ("round", 0.0, None)}
        return {"seconds": 2.0, "questions_per_second": 1.0, "rows": {"none": 1.0}, "answers": answers}

    monkeypatch.setattr(harness, "timed_sweep", timed)
    assert harness.main([*SMALL, f"data={data_root}", f"results={tmp_path}"], "") == harness.DIFFERENT
    assert "NOT the same" in capsys.readouterr().out
    found = json.loads((tmp_path / "bench" / "harness.json").read_text())
    assert found["different_answers"] == {"loop": 1, "no cache": 0, "default": 0}
    assert found["identical"] is False
