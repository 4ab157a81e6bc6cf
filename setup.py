"""What pyproject.toml cannot say: files from beside the package go into the wheel, without a copy in git."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = {"configs": "configs", "results/published": "published"}
"""Folder of the checkout -> its place in ``clasp/_data`` of the wheel; see ``clasp/data.py``."""
LEFT_OUT = "site.yaml"
"""A cluster's own settings, which git ignores."""


class BuildWithData(build_py):
    """``build_py``, and :data:`DATA`; an editable install reads the checkout's own files."""

    def run(self) -> None:
        super().run()
        for source, place in {} if self.editable_mode else DATA.items():
            for path in sorted(Path(source).rglob("*")):
                if path.is_file() and path.name != LEFT_OUT:
                    target = Path(self.build_lib, "clasp", "_data", place, path.relative_to(source))
                    self.mkpath(str(target.parent))
                    self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithData})
