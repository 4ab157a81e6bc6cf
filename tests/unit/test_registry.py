"""What methods say of themselves for tables and figures, and that reading it runs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import clasp
from clasp.methods import METHODS, get
from clasp.methods.registry import read


@pytest.mark.parametrize("name", METHODS)
def test_the_registry_says_what_the_class_says(name: str) -> None:
    method, entry = get(name), METHODS[name]
    assert (method.__module__, method.__name__, method.name) == (entry.module, entry.class_name, name)
    assert entry.label == (method.__dict__.get("label") or method.__name__)
    assert (entry.paper, entry.inside, entry.convention) == (method.paper, method.inside, method.convention)
    assert (entry.needs_videos, entry.resizes) == (method.needs_videos, method.resizes)
    assert bool(entry.paper) == any(entry.paper in line for line in (method.__doc__ or "").splitlines() if entry.paper)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_inside_the_decoder_where_its_stages_are(name: str) -> None:
    method = get(name)
    stages = method(tokens=128).schedule(576, 12).stages if method.prunes else ()
    assert METHODS[name].inside == bool(stages and stages[-1].cut > 0)


def test_tables_have_baselines_first_and_then_the_papers_in_their_order() -> None:
    papers, names, labels = zip(*((entry.paper, name, entry.label) for name, entry in METHODS.items()), strict=True)
    assert list(papers) == sorted(papers)
    assert (names[0], names[-1]) == ("none", "clasp")
    assert len(set(labels)) == len(labels)
    named = {"Random (inside)", "Pooling", "PruMerge+", "HiRED", "PDrop", "IVC-Prune", "V2Drop", "VisionTrim (encoder)"}
    assert named < set(labels), "as papers write them"


def test_a_method_is_found_by_its_file_alone(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("import nothing.that.exists\n\nclass Base:\n    inside: bool = True\n", "utf-8")
    own = "class Mine(Base):\n    name: str = 'mine'\n    label: str = 'MINE'\n    paper: str = '2601.00001'\n"
    heir = "class Heir(Mine):\n    name: str = 'heir'\n    inside: bool = False\n"
    (tmp_path / "mine.py").write_text(f"{own}\n{heir}\nclass Helper(Base):\n    pass\n", "utf-8")
    found = read(tmp_path, "pack")
    assert list(found) == ["heir", "mine"]
    mine, heirs = found["mine"], found["heir"]
    assert (mine.module, mine.class_name, mine.label, mine.inside) == ("pack.mine", "Mine", "MINE", True)
    assert (heirs.label, heirs.paper, heirs.inside, heirs.convention) == ("Heir", "2601.00001", False, None)


def test_asking_which_methods_there_are_imports_no_torch() -> None:
    code = "import sys; from clasp.methods import for_images; assert for_images(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(clasp.__all__) == {entry.class_name for entry in METHODS.values()} | {"load"}
