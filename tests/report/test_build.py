"""``clasp-eval report`` as a user calls it: what it writes, what it leaves out with a note, and when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from command_line import ROOT
from synthetic import CellName, Root, plan, planned

from clasp.report.fidelity import files


def test_the_script_writes_everything_without_torch(results: Root) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "scripts/report.py", "experiment=tiny_main", f"results={results.path}"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    written = [f"tables/tiny_main.{suffix}" for suffix in ("md", "csv", "tex")]
    for path in [*written, *(f"figures/accuracy_vs_flops_tiny_main.{suffix}" for suffix in ("png", "svg"))]:
        assert (results.path / path).stat().st_size > 500
        assert str(results.path / path) in done.stdout
    assert "| CLASP " in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "transformers", "lmms_eval", "wandb"})
    assert "pandas" in imported


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["experiment=nope"], 1, "experiment 'nope' has not been run yet"),
        (["experimant=tiny_main"], 2, "unknown key 'experimant': use one of experiment, "),
        ([], 2, "no experiment is named"),
        (["experiment=tiny_main", "published=yes"], 2, "published='yes' is neither 1 nor 0; say published=1, or leave"),
        (["experiment=tiny_main", "wandb=yes"], 2, "wandb='yes' is unknown; use one of off, offline, online"),
    ],
)
def test_the_script_fails_with_one_sentence(
    results: Root, script: Any, arguments: list[str], status: int, message: str
) -> None:
    found, out, err = script("report", *arguments)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert err.startswith(f"error: {message}")


def few_questions(root: Root) -> None:
    """Four questions a benchmark, none of which the unpruned model answers right on one of them."""
    root.write(questions=4)
    root.put("none", 576, "tiny_gqa", [0.0] * 4)


def without_categories(root: Root) -> None:
    for key in plan():
        root.change_answers(key, lambda *_: {"category": None})


def rerun(root: Root, *cells: CellName) -> None:
    """The experiment plans these cells alone."""
    root.plan([planned(*key) for key in cells])


ALONE = plan(methods=())
"""The unpruned model's cells."""
FLOPS = "accuracy_vs_flops"
# what is wrong with the results, a figure that has no points then, and the reason and remedy of the note
UNDRAWN: tuple[tuple[Callable[[Root], object], str, str], ...] = (
    (few_questions, FLOPS, "the unpruned score on tiny GQA is 0, which has no ratio; ask more questions (LIMIT=...)"),
    (few_questions, "fidelity", "0 rows of experiment 'tiny_main' have a published result and all scores as ratios"),
    (lambda root: rerun(root, *plan()[len(ALONE) :]), FLOPS, "the experiment has no unpruned row; add the method none"),
    (lambda root: rerun(root, *ALONE), FLOPS, "the experiment has no pruned row; add a method that prunes"),
    (lambda root: root.remove(*ALONE[:2]), FLOPS, "the unpruned model has no score on easy-VQA, tiny MM-Vet; run its"),
    (lambda root: root.remove(*plan(benchmarks=["tiny_gqa"])[1:]), FLOPS, "every pruned row lacks a score; run their"),
    (lambda root: root.alter(*plan(), score=None), "score_vs_budget", "no pruned row has a score; run the missing"),
    (without_categories, "heatmap", "no pruned row has answers with a category and a score; run the missing cells,"),
)


@pytest.mark.parametrize(("change", "figure", "reason"), UNDRAWN)
def test_a_figure_without_points_is_left_out_with_a_note_and_all_else_is_written(
    results: Root, script: Any, change: Callable[[Root], object], figure: str, reason: str
) -> None:
    """Also where the figure of earlier results is there, which would stand beside the new table."""
    change(results)
    path = results.path / "experiments" / "tiny_main.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"report": {"figures": [figure]}}))
    own = files("tiny_main", results.path) if figure == "fidelity" else results.experiment().figure(figure)
    for old in own.values():
        old.parent.mkdir(exist_ok=True)
        old.write_text("<svg>of earlier results</svg>")
    status, out, err = script("report", "experiment=tiny_main")
    *_, note = out.splitlines()
    assert (status, err) == (0, "")
    assert note.startswith(f"note: the figure {figure} is not drawn: {reason}")
    assert "# tiny_main\n" in out
    assert [old for old in own.values() if old.exists()] == []
    sentence = note.removeprefix("note: ")
    status, out, _ = script("report", "experiment=all")
    assert (status, out.splitlines()[1:]) == (0, [f"note: tiny_main: {sentence}"])
    page = (results.path / "report.html").read_text().replace("&#39;", "'")
    assert page.count(sentence) == 2, "where the figure would be, and among what is incomplete"
    assert "earlier results" not in page


def test_the_figures_that_have_points_are_drawn(results: Root, script: Any) -> None:
    results.write(figures=["accuracy_vs_flops", "score_vs_budget"])
    results.put("none", 576, "tiny_gqa", [0.0] * 120)
    status, out, _ = script("report", "experiment=tiny_main")
    assert status == 0
    assert [path.name for path in sorted((results.path / "figures").iterdir())] == [
        f"score_vs_budget_tiny_main.{suffix}" for suffix in ("png", "svg")
    ]
    assert out.count("note: ") == 1


def test_what_is_broken_fails_and_the_other_experiments_are_built(results: Root, script: Any) -> None:
    (results.path / "experiments" / "broken.json").write_text("{")
    Root(results.path, "gone").write(methods=("pool",), published="nothing", figures=[])
    status, out, err = script("report", "experiment=all", "published=1")
    assert (status, out) == (1, f"report: {results.path / 'report.html'} (3 experiments)\n")
    assert [line.split(" ", 2)[1] for line in err.splitlines()] == ["broken:", "gone:"]
    assert "no published rows of backbone 'nothing'" in err
    page = (results.path / "report.html").read_text()
    assert "is not valid JSON" in page.partition('<section id="tables"')[0]
    assert 'id="e-tiny_main"' in page
    assert (results.path / "tables" / "gone.md").is_file()


def test_published_numbers_that_cannot_be_read_are_no_missing_points(
    results: Root, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clasp.report.build.FOLDER", results.path)
    results.plan([planned(*key) for key in plan()], report={"figures": ["fidelity", "accuracy_vs_flops"]})
    status, out, err = script("report", "experiment=tiny_main")
    assert (status, "note: " in out, "accuracy_vs_flops_tiny_main.png" in out) == (1, False, True)
    assert err.startswith(f"error: published numbers {results.path / 'accuracy.csv'} cannot be read")


def test_no_experiment_is_an_error_that_says_what_to_run(script: Any) -> None:
    status, out, err = script("report", "experiment=all")
    assert (status, out, "run 'make tables' first" in err) == (1, "", True)
