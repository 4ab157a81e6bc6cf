"""A user's own questions: every bad line is named before anything runs; good ones are a benchmark like any other."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from evaluation_support import Configured
from PIL import Image, ImageFile

from clasp.categories import CATEGORIES
from clasp.cli import jobs
from clasp.evaluation.plan import plan
from clasp.evaluation.questions.custom import PLACEHOLDERS, BadRows, read, rows
from clasp.evaluation.tasks.custom import process_results
from clasp.report.build import build_experiment
from clasp.report.layout import benchmark_label
from clasp.results import experiments
from clasp.results.store import CellStore
from clasp.strict import ConfigError

GOOD = {"image": "a.png", "question": "is there a circle?", "answer": ["yes", "no"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three images, a cut one, and a text that calls itself an image."""
    made = tmp_path / "mine"
    made.mkdir()
    linear, radial = Image.linear_gradient("L"), Image.radial_gradient("L")
    for name, picture in {"a.png": linear, "b.png": radial, "whole.jpg": linear.rotate(90)}.items():
        picture.convert("RGB").save(made / name)
    whole = (made / "whole.jpg").read_bytes()
    (made / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (made / "text.png").write_text("not an image")
    return made


def write(folder: Path, lines: Sequence[Any], name: str = "desk_1.jsonl") -> Path:
    """A file of these lines; what is no text is written as JSON."""
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(BadRows) as caught:
        read(path)
    return str(caught.value).splitlines()[1:]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["valid JSON"]),
        ("[1]", ["no JSON object"]),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), ["valid JSON"]),
        *[(without(key), [repr(key), "missing"]) for key in GOOD],
        (GOOD | {"id": 7}, ["'id'", "image, question, answer, category"]),
        (GOOD | {"question": " "}, ["question is empty"]),
        (GOOD | {"question": ["why?"]}, ["question", '["why?"]']),
        *[(GOOD | {"question": f"what {mark} is it?"}, ["placeholder", mark]) for mark in PLACEHOLDERS],
        *[(GOOD | {"answer": value}, ["answer", json.dumps(value)]) for value in (7, None, "", [], ["yes", 7], [" "])],
        (GOOD | {"answer": ["yes", "?!"]}, ["'?!'", "no letter or digit"]),
        *[(GOOD | {"image": value}, ["image", json.dumps(value)]) for value in (7, "", [], ["a.png", None], {})],
        *[(GOOD | {"category": value}, ["category", *CATEGORIES]) for value in ("colour", 3, None, ["ocr"])],
        (GOOD | {"image": "c.png"}, ["c.png", "does not exist"]),
        (GOOD | {"image": "."}, ["does not exist"]),
        (GOOD | {"image": "text.png"}, ["text.png", "cannot be read"]),
        (GOOD | {"image": ["a.png", "cut.jpg"]}, ["cut.jpg", "cannot be read", "truncated"]),
    ],
    ids=str,
)
def test_a_bad_line_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, line: dict[str, Any] | str, words: list[str]
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval leaves it
    (problem,) = problems(write(folder, [GOOD, "", line, GOOD]))
    assert problem.startswith("line 3: ")
    for word in words:
        assert word in problem
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_all_bad_lines_are_listed_with_all_that_is_wrong(folder: Path) -> None:
    bad = {"image": "zz.png", "question": "", "answer": 1, "categori": "ocr"}
    found = problems(write(folder, [bad, GOOD, "nope", GOOD | {"image": ["text.png", "zz.png"]}, GOOD]))
    assert [line.split(":")[0] for line in found] == ["line 1"] * 4 + ["line 3"] + ["line 4"] * 2
    with pytest.raises(BadRows, match="has 3 bad lines"):
        read(folder / "desk_1.jsonl")


def test_a_file_without_questions_and_a_missing_one_are_refused(folder: Path) -> None:
    for text in ("", "\n  \n"):
        with pytest.raises(ConfigError, match="no questions"):
            read(write(folder, [text]))
    with pytest.raises(ConfigError, match="cannot be read"):
        read(folder / "none.jsonl")


def test_good_lines_and_their_images(folder: Path) -> None:
    absolute = GOOD | {"image": [str(folder / "b.png"), "a.png"], "answer": "yes", "category": "ocr"}
    path = write(folder, ["\ufeff" + json.dumps(GOOD), "", absolute, absolute])
    first, second, third = rows(path)
    assert (first.number, second.number) == (1, 3)
    assert first.images == (folder / "a.png",)
    assert second.images == (folder / "b.png", folder / "a.png")
    assert (first.answers, first.category, second.answers, second.category) == (("yes", "no"), None, ("yes",), "ocr")
    assert dataclasses.replace(third, number=3) == second, "the same question twice is fine"
    custom = read(path)
    assert (custom.benchmark.name, custom.benchmark.category, custom.file.questions) == ("custom_desk_1", None, 3)
    assert benchmark_label(custom.benchmark.name) == "desk_1"
    assert read(write(folder, [absolute])).benchmark.category == "ocr"


def test_what_can_change_an_answer_changes_the_content_and_nothing_else_does(folder: Path, tmp_path: Path) -> None:
    def content(*lines: Any) -> str:
        return read(write(folder, lines)).file.content

    base = content(GOOD)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert read(moved / "desk_1.jsonl").file.content == base
    assert content("", json.dumps(GOOD, indent=None, separators=(",  ", ":"))) == base
    (folder / "same.png").write_bytes((folder / "a.png").read_bytes())
    assert content(GOOD | {"image": "same.png"}) == base
    changed = [{"image": "b.png"}, {"image": ["a.png", "a.png"]}, {"question": "why?"}, {"answer": "yes"}]
    changed.append({"category": "ocr"})
    contents = {base, content(GOOD, GOOD), *(content(GOOD | change) for change in changed)}
    (folder / "a.png").write_bytes((folder / "whole.jpg").read_bytes())
    assert len(contents | {content(GOOD)}) == 8


def test_any_accepted_answer_is_right() -> None:
    for prediction, score in (("Grey.", 1.0), ("the gray", 1.0), ("greyish", 0.0), ("", 0.0), ("grey gray", 0.0)):
        assert process_results({"answers": ["grey", "Gray"]}, [prediction]) == {"exact_match": score}, prediction


def test_the_plan(configured: Configured, folder: Path) -> None:
    path = write(folder, [GOOD] * 3)
    base = ["benchmarks=custom", f"data={path}", "method=random", "tokens=64"]
    (cell,) = plan(configured(*base)).cells
    assert (cell.benchmark, cell.limit) == ("custom_desk_1", "all")
    assert plan(configured(*base, "limit=2")).cells[0].limit == 2
    assert plan(configured(*base, "limit=3")).cells[0].signature == cell.signature
    both = plan(configured(*base[1:], "benchmarks.names=[tiny_textvqa,custom]"))
    assert [spec.benchmark for spec in both.cells] == ["tiny_textvqa", "custom_desk_1"]
    write(folder, [GOOD] * 2 + [GOOD | {"answer": "no"}])
    assert plan(configured(*base)).cells[0].signature != cell.signature


@pytest.mark.parametrize(
    ("given", "remedy"), [("benchmarks=custom", "data=my.jsonl"), ("data=my.jsonl", "benchmarks=custom")]
)
def test_data_and_custom_belong_together(configured: Configured, given: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"{given}.*{remedy}"):
        configured("tokens=64", given)


def test_the_command_line_lists_bad_lines_and_loads_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder, [GOOD | {"answer": 1}, GOOD | {"image": "zz.png"}], "my.jsonl")
    arguments = ["benchmarks=custom", "data=my.jsonl", "method=random", "tokens=64"]
    assert call(monkeypatch, folder, *arguments) == jobs.BAD_INPUT
    captured = capsys.readouterr()
    first, *listed = captured.err.splitlines()
    assert first.startswith("error: data=my.jsonl has 2 bad lines")
    assert [line.split(":")[0] for line in listed] == ["line 1", "line 2"]
    assert "loading" not in captured.out + captured.err
    assert not (folder / "results" / "cells").exists()


def test_end_to_end(
    folder: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several images, several answers, a category, through the run, the table and the figure."""
    lines = [
        GOOD,
        GOOD | {"image": ["a.png", "b.png"], "category": "spatial"},
        GOOD | {"image": "whole.jpg", "answer": "zebra"},
        GOOD | {"question": "left out by the limit?"},
    ]
    write(folder, lines, "my.jsonl")
    arguments = ["benchmarks=custom", "data=my.jsonl", "limit=3", "name=mine", "wandb.enabled=false"]
    arguments += ["grid.method=[none,random]", "grid.tokens=[64]", f"paths.data={data_root}"]
    assert call(monkeypatch, folder, *arguments) == 0
    assert "custom_my" in capsys.readouterr().out
    results = folder / "results"
    store = CellStore(results)
    cells = [store.get(signature) for signature in experiments.planned(store.root, "mine")]
    for cell in cells:
        assert cell is not None
        assert (cell["benchmark"], cell["questions"], cell["available"]) == ("custom_my", 3, 4)
        answers = store.answers(cell["signature"])
        assert [answer["question_id"] for answer in answers] == ["1", "2", "3"]
        assert [answer["category"] for answer in answers] == [None, "spatial", None]
        assert answers[0]["answer"] == "yes | no"
        right = [float(answer["prediction"] in ("yes", "no")) for answer in answers[:2]]
        assert [answer["score"] for answer in answers] == [*right, 0.0]
        assert cell["score"] == pytest.approx(sum(right) / 3)
    assert cells[0] is not None
    assert cells[0]["costs"]["visual_tokens"]["nominal"] == pytest.approx(576 * 4 / 3), "the second has two images"

    build_experiment("mine", results)
    assert "| my |" in " ".join((results / "tables" / "mine.md").read_text().split())
    assert (results / "figures" / "accuracy_vs_flops_mine.svg").exists()
