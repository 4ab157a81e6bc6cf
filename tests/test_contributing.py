"""CONTRIBUTING.md is true: its example, followed to the letter on a copy of the checkout, passes its commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clasp.backbones.base import Adapter

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"`([\w./]+)`[^`\n]*:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
"""File that the page names before a code block -> the block: a new file, or a line of a table that exists."""
TABLES = {
    "tests/engine/cases.py": "METHODS: dict[str, Method] = {\n",
}
COMMANDS = re.findall(r"^    (\.venv/bin/python .*\blargest)$", PAGE, re.MULTILINE)
RULE = "top_k(state.tokens().float().norm(p=self.order, dim=2), keep)"
PYTEST = ".venv/bin/python -m pytest "
PROCESS = """
import json, os, sys
import hydra, pandas, pytest
from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

for folder, arguments in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.chdir(folder)
        sys.path.insert(0, folder)
        sys.exit(pytest.main(arguments))
    print("status", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
"""``python -m pytest`` in a folder each, in forks of one process that has imported what takes long."""
pytestmark = pytest.mark.xdist_group("contributing")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the page's example was added as the page says."""
    tmp_path = tmp_path_factory.mktemp("checkout")
    for name in ("clasp", "tests", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    for path, block in BLOCKS.items():
        if path in TABLES:
            text = (tmp_path / path).read_text(encoding="utf-8")
            assert text.count(TABLES[path]) == 1
            block = text.replace(TABLES[path], TABLES[path] + block)
        else:
            assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(block, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def broken(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a method that keeps a token twice."""
    folder = tmp_path_factory.mktemp("broken") / "checkout"
    shutil.copytree(checkout, folder, symlinks=True)
    method = folder / "clasp/methods/largest.py"
    method.write_text(method.read_text(encoding="utf-8").replace(RULE, f"{RULE} // 2 * 2"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcomes(checkout: Path, broken: Path) -> list[tuple[int, str]]:
    """Of every command of the page, and of the matrix on the broken method: exit status and last line."""
    commands = [(checkout, command) for command in COMMANDS[:-1]]
    commands += [(checkout, narrowed(COMMANDS[-1], "llava- and not video or qwen2_5_vl"))]
    commands += [(broken, narrowed(COMMANDS[-1], "llava- and not video and counts"))]
    assert all(command.startswith(PYTEST) for _, command in commands)
    calls = [(str(folder), shlex.split(command.removeprefix(PYTEST))) for folder, command in commands]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTEST_ADDOPTS": "-p no:cacheprovider", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [checkout / ".venv/bin/python", "-c", PROCESS, json.dumps(calls)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    found = re.findall(r"([^\n]*)\n+status (\d+)\n", done.stdout)
    assert len(found) == len(calls), done.stdout + done.stderr
    return [(int(status), last) for last, status in found]


def narrowed(command: str, families: str) -> str:
    """A command of the page on some of the families."""
    return command.replace("-k largest", f"-k 'largest and ({families})'")


def test_the_page_has_the_example_and_its_commands() -> None:
    assert set(BLOCKS) == {
        "clasp/methods/largest.py",
        "configs/method/largest.yaml",
        "tests/engine/cases.py",
        "tests/unit/test_largest.py",
    }
    assert BLOCKS["clasp/methods/largest.py"].count(RULE) == 1
    assert COMMANDS[-1] == ".venv/bin/python -m pytest tests/engine/test_matrix.py -k largest"


def test_the_example_passes_every_command_of_the_page(outcomes: list[tuple[int, str]]) -> None:
    passed = []
    for status, last in outcomes[:-1]:
        assert status == 0, last
        counted = re.fullmatch(r"(\d+) passed,(?: \d+ skipped,)? \d+ deselected.*", last)
        assert counted is not None, last
        passed.append(int(counted[1]))
    assert passed[0] >= 2, "its rule and its configuration"
    assert passed[1] >= 8, "four tests on each of LLaVA and Qwen2.5-VL"


def test_a_method_that_keeps_a_token_twice_fails_the_matrix(outcomes: list[tuple[int, str]]) -> None:
    status, last = outcomes[-1]
    assert status == 1, last
    assert re.match(r"1 failed,(?: \d+ skipped,)? \d+ deselected", last), last


def test_the_example_passes_the_linter(checkout: Path) -> None:
    files = [path for path in BLOCKS if path.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [".venv/bin/ruff", *command, *files], cwd=checkout, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_every_path_and_every_abstract_method_on_the_page_exists() -> None:
    paths = set(re.findall(r"(?<![\w/])(?:clasp|tests|configs|results)/[\w/.]*\w(?=[`/ ])", PAGE))
    missing = {path for path in paths if not (ROOT / path).exists()} - set(BLOCKS)
    assert {Path(path).name for path in missing} <= {"NAME.yaml"}
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert Adapter.__abstractmethods__ <= named
    assert all(hasattr(Adapter, name) for name in ("rotary", "next_position", "heads", "scaling", "additions"))
    for target in re.findall(r"(?:`|^    )make ([\w-]+)", PAGE, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target
