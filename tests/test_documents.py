"""The notebooks run as committed; test_package.py runs the README's example."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from synthetic import write_experiment

from clasp import load
from clasp.evaluation.generation.answering import Answerer, Question
from clasp.evaluation.questions.embedded import ensure
from clasp.methods import build
from clasp.report.figures.style import COLUMN_MM, DPI

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a notebook's code cells in ``<folder>/notebooks``; a cell's last expression is evaluated and kept as ``_``.

    Returns:
        The names that it defines; ``shown`` is the list of values that a reader sees below cells.
    """
    mpl.use("Agg")
    (folder / "notebooks").mkdir()
    monkeypatch.chdir(folder / "notebooks")
    notebook = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    names: dict[str, Any] = {"shown": []}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            body = ast.parse("".join(cell["source"]), name)
            last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
            exec(compile(body, name, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval"), names)
                names["shown"] += [] if value is None else [value]
    return names


def test_notebooks_are_listed_and_committed_without_outputs() -> None:
    found = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    listed = re.findall(r"^\| `(\w+)`", (NOTEBOOKS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [f"{name}.ipynb" for name in listed] != []
    for name in found:
        for cell in json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]:
            assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), name


def test_one_image_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    (tmp_path / "data").symlink_to(data_root, target_is_directory=True)
    names = execute("01_prune_one_image.ipynb", tmp_path, monkeypatch)
    stages = names["run"].schedule.stages
    assert len(names["axes"]) == len(stages) == 3
    assert [len(kept) for kept in names["sample"].kept] == [stage.keep for stage in stages]
    for axis, kept in zip(names["axes"], names["sample"].kept, strict=True):
        drawn = np.asarray(axis.images[0].get_array())
        size = len(drawn) // 24
        coloured = np.ptp(drawn, axis=2).reshape(24, size, 24, size).max(axis=(1, 3)) > 0.0  # dropped ones are grey
        assert np.flatnonzero(coloured).tolist() == kept.tolist()


def test_the_notebooks_question_is_answered_right(data_root: Path) -> None:
    model, processor = load("tiny", device="cpu")
    path = ensure(data_root, ["tiny_textvqa"])["tiny_textvqa"].path
    row = pyarrow.parquet.read_table(path).slice(0, 1).to_pylist()[0]
    question = Question("notebook", row["question"], [Image.open(io.BytesIO(row["image"]["bytes"]))])
    (answer,) = Answerer(model, processor, build("none", {})).answer([question])
    assert answer.text == row["answer"]


def test_stored_cells_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_experiment(tmp_path / "mine", questions=30)
    monkeypatch.setenv("CLASP_RESULTS", str(tmp_path / "mine"))
    names = execute("02_accuracy_vs_flops.ipynb", tmp_path, monkeypatch)
    rows, *pictures, differing = names["shown"]
    assert len(rows) == len(names["summary"].rows) == 13
    assert [image.width for image in pictures] == [pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)] * 2
    assert 0 < len(differing) <= 10
    assert not {path.name for path in tmp_path.iterdir()} - {"mine", "notebooks"}


def test_a_fusion_ablation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    (tmp_path / "data").symlink_to(data_root, target_is_directory=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    monkeypatch.setenv("CLASP_QUESTIONS", "2")
    names = execute("03_fusion_ablation.ipynb", tmp_path, monkeypatch)
    assert names["outcome"].failed == ()
    assert not names["summary"].experiment.missing
    assert {row.name for row in names["summary"].rows} >= {"A shallow", "E deep", "class-adaptive"}
    (image,) = names["shown"]
    assert image.width == pytest.approx(COLUMN_MM / 25.4 * DPI, abs=1)
