"""What the README and the notebooks tell people to type works as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clasp.tiny.drawing import render
from clasp.tiny.world import scene

ROOT = Path(__file__).resolve().parents[1]


def test_the_readme_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(scene("calibration", 3))).save("picture.png")
    exec(compile(example[1], "README.md", "exec"), {})
    answer, trace = capsys.readouterr().out.splitlines()[-2:]
    assert answer.strip() == "green"  # the one circle of that picture
    assert trace.startswith("attribute [")


def test_the_walkthrough_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").symlink_to(data_root, target_is_directory=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    notebook = json.loads((ROOT / "notebooks" / "walkthrough.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "notebooks are committed without outputs"
            exec(compile("".join(cell["source"]), "walkthrough.ipynb", "exec"), names)
    assert len(names["axes"]) == 3  # type: ignore[arg-type]
