"""The distribution: its declared dependencies, the content of its wheel, and that the wheel needs nothing else."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import clasp
from clasp.tiny.painting import paint
from clasp.tiny.world import scene

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
USED_WITHOUT_IMPORT = {"torchvision"}  # by transformers' image processors
LIBRARY = {"torch", "transformers", "pillow", "torchvision"}
"""Packages whose dependencies include everything that the library needs."""


def imported() -> set[str]:
    """Distributions whose packages the package's modules import, also inside functions."""
    owners = metadata.packages_distributions()
    found: set[str] = set()
    for path in (ROOT / "clasp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            found |= {name.partition(".")[0] for name in names}
    foreign = found - sys.stdlib_module_names - {"clasp"}
    return {canonicalize_name(owner) for name in foreign for owner in owners[name]}


def declared(*extras: str) -> set[str]:
    listed = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name) for line in listed}


def test_declared_dependencies_are_imported_locked_and_all_that_the_library_needs() -> None:
    own, optional = canonicalize_name(PROJECT["name"]), set(PROJECT["optional-dependencies"])
    run = declared(*optional - {"dev", "docs"}) - {own}
    assert run == imported() | USED_WITHOUT_IMPORT
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert declared(*optional) - {own} <= {canonicalize_name(line.partition("==")[0]) for line in lock}
    assert LIBRARY <= declared() <= needed(LIBRARY)


def test_the_version_is_one() -> None:
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    listed = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None
    assert listed is not None
    assert PROJECT["version"] == clasp.__version__ == cited[1] == listed[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files that git tracks, built from a copy without an index."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        wanted = "/" not in name or name.startswith(("clasp/", "configs/", "results/published/"))
        if wanted and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    (source / "configs" / "launcher" / "site.yaml").write_text("launcher: {account: private}\n")
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    built = subprocess.run([sys.executable, "-c", build, str(target)], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target / built.stdout.splitlines()[-1]


def test_the_wheel_contains_all_files_that_are_read(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.name.startswith(f"clasp_pruning-{PROJECT['version']}-")
    for source, place in (("configs", "configs"), ("results/published", "published")):
        own = {path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file()}
        own -= {Path("launcher/site.yaml")}
        carried = {Path(name).relative_to(f"clasp/_data/{place}") for name in names if f"_data/{place}/" in name}
        assert carried == own
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "clasp").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert {name for name in names if name.startswith("clasp/") and "/_data/" not in name} == package
    assert {name.partition("/")[0] for name in names} == {"clasp", f"clasp_pruning-{PROJECT['version']}.dist-info"}


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Path:
    """A folder to import from: the wheel's contents."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def test_the_wheel_has_the_commands_and_their_configurations(site: Path, tmp_path: Path) -> None:
    (entries,) = site.glob("*.dist-info/entry_points.txt")
    assert "clasp-eval = clasp.cli.main:main" in entries.read_text()
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "deep_fastv.yaml").write_text("name: fastv\nlayer: 5\n")
    ran = subprocess.run(
        [sys.executable, "-m", "clasp.cli", "run", "--config-dir", "mine", "method=deep_fastv", "--info", "searchpath"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert str(site / "clasp" / "_data" / "configs") in ran.stdout


def needed(names: set[str]) -> set[str]:
    """Distributions with all their dependencies, without extras."""
    found: set[str] = set()
    waiting = {canonicalize_name(name) for name in names}
    while waiting:
        found.add(name := waiting.pop())
        lines = map(Requirement, metadata.requires(name) or [])
        here = [line for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
        waiting |= {canonicalize_name(line.name) for line in here} - found
    return found


@pytest.fixture
def bare(site: Path) -> Path:
    """That, and links to only the library's dependencies."""
    for name in needed(LIBRARY):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return site


def test_the_readme_example_runs_from_the_wheel_alone(bare: Path, tmp_path: Path) -> None:
    """Outside of the checkout, without the packages that evaluation needs, such as the sentence encoder."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    Image.fromarray(paint(scene("calibration", 90)).pixels).save(tmp_path / "picture.png")
    code = [
        *("import sys", f"sys.path.insert(0, {str(bare)!r})", "import importlib.util"),
        "assert importlib.util.find_spec('sentence_transformers') is importlib.util.find_spec('hydra') is None",
        example[1],
        "import clasp; print(clasp.__file__); print(run.trace.fallbacks)",
    ]
    # -S: no site-packages, -I: neither the current folder nor PYTHONPATH
    command = [sys.executable, "-I", "-S", "-c", "\n".join(code)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    answer, trace, place, fallbacks = ran.stdout.splitlines()[-4:]
    assert answer.strip() == "brown"
    assert trace.startswith("attribute [")
    assert Path(place).is_relative_to(bare)
    assert "keyword rules stand in for router 'embedding'" in fallbacks
