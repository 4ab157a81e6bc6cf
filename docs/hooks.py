"""Puts pages and files from beside docs/ into the site, under the same relative links that work in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def outside(source: Path) -> set[str]:
    """Files of the repository, relative to its root, that a Markdown file links to and docs/ does not hold."""
    found = set()
    for link in _LINK.findall(source.read_text(encoding="utf-8")):
        target = (source.parent / link).resolve()
        if target.is_file() and ROOT / "docs" not in target.parents:
            found.add(target.relative_to(ROOT).as_posix())
    return found


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to, and what those files link to in turn."""
    waiting = {"CONTRIBUTING.md", "CHANGELOG.md"}.union(*(outside(path) for path in (ROOT / "docs").glob("*.md")))
    added: set[str] = set()
    while waiting:
        name = waiting.pop()
        added.add(name)
        files.append(File.generated(config, _placed(name), abs_src_path=str(ROOT / name)))
        if name.endswith(".md"):
            waiting |= outside(ROOT / name) - added
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has the files: relative to the page's place in the site instead of in the repository."""
    place = page.file.src_uri
    own = ROOT / ("docs/" + place if (ROOT / "docs" / place).is_file() else _original(place))

    def moved(match: re.Match[str]) -> str:
        target = (own.parent / match[1]).resolve()
        if not target.is_relative_to(ROOT) or not target.exists():
            return match[1]  # which the strict build then refuses
        name = target.relative_to(ROOT).as_posix()
        name = name.removeprefix("docs/") if name.startswith("docs/") else _placed(name)
        return posixpath.relpath(name, posixpath.dirname(place) or ".")

    return _LINK.sub(moved, markdown)


def _placed(name: str) -> str:
    """Where a file of the repository lies in the site; a folder's README would take the place of its index."""
    return re.sub(r"README\.md$", "about.md", name)


def _original(place: str) -> str:
    return re.sub(r"about\.md$", "README.md", place)
