"""README, docs/ and the site: length, complete tables, working links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from clasp.backbones.published import PUBLISHED
from clasp.methods import METHODS, get
from clasp.report.reference import RECENT

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "notebooks" / "README.md"])
FAMILIES = {
    "LLaVA-1.5, `tiny`": PUBLISHED["llava-hf/llava-1.5-7b-hf"],
    "LLaVA-NeXT": PUBLISHED["llava-hf/llava-v1.6-vicuna-7b-hf"],
    "Video-LLaVA": PUBLISHED["LanguageBind/Video-LLaVA-7B-hf"],
    "LLaVA-OneVision": PUBLISHED["llava-hf/llava-onevision-qwen2-7b-ov-hf"],
    "Qwen2-VL, Qwen2.5-VL": PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"],
    "Qwen3-VL": PUBLISHED["Qwen/Qwen3-VL-8B-Instruct"],
    "InternVL3": PUBLISHED["OpenGVLab/InternVL3-8B-hf"],
    "SmolVLM2": PUBLISHED["HuggingFaceTB/SmolVLM2-2.2B-Instruct"],
}
"""Column of the README's table -> a model of the family."""


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_targets(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def table(page: str, first: str) -> list[list[str]]:
    """Rows of the page's table whose header begins with ``first``; the header is the first row."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(first)} \|(?:.*\n\|)+.*$", text, re.MULTILINE)
    assert found is not None, f"{page} has no table that begins with {first}"
    rows = [[entry.strip() for entry in line.split("|")[1:-1]] for line in found[0].splitlines()]
    return [rows[0], *rows[2:]]


def test_the_readme_is_one_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 170
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        listed = subprocess.run(["git", "ls-files", image], cwd=ROOT, capture_output=True, text=True)
        assert listed.stdout.strip() == image, "git has it"


def test_the_readme_says_which_method_runs_on_which_family() -> None:
    head, *rows = table("README.md", "`method=`")
    assert head[3:] == list(FAMILIES)
    said = {row[0].strip("`"): row[3:] for row in rows}
    assert list(said) == [name for name in METHODS if name != "none"]
    for name, entries in said.items():
        method = get(name)(ratio=0.778)
        for (family, model), entry in zip(FAMILIES.items(), entries, strict=True):
            try:
                method.check(model.geometry)
                expected = "◐" if method.fallbacks(model.geometry) else "●"
            except ValueError:
                expected = "–"
            assert entry == expected, f"{name} on {family}"


def test_every_method_and_backbone_is_described() -> None:
    described = [row[0].strip("`") for row in table("docs/methods.md", "`method=`")[1:]]
    assert described == [name for name in METHODS if name != "none"]
    recent = [row[0].strip("`") for row in table("docs/methods-2026.md", "`method=`")[1:]]
    assert recent == [name for name, entry in METHODS.items() if entry.paper >= RECENT]
    named = [name for row in table("docs/backbones.md", "`backbone=`")[1:] for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(path.stem for path in (ROOT / "configs" / "backbone").glob("*.yaml"))


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for entry in METHODS.values():
        assert f'id="{entry.module}.{entry.class_name}"' in api
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or (tmp_path / "site" / page.stem / "index.html").is_file()
    speed = (tmp_path / "site" / "speed" / "index.html").read_text(encoding="utf-8")
    target = re.search(r'href="([^"]*small_growth\.png)"', speed)
    assert target is not None
    assert (tmp_path / "site" / "speed" / target[1]).is_file(), "what is linked beside docs/ is carried along"


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    sections = [part for entry in nav for part in ([[entry]] if isinstance(entry, str) else entry.values())]
    own = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(name for pages in sections for name in pages) == sorted([*own, "CONTRIBUTING.md", "CHANGELOG.md"])
