"""The fingerprint of code: what changes it, and what it may not depend on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from clasp import fingerprint
from clasp.fingerprint import code_fingerprint, normalised
from clasp.methods.clasp import prototypes


def test_comments_docstrings_and_a_methods_display_attributes_do_not_count() -> None:
    source = '"""Doc."""\ndef f(x):\n    """Doc."""\n    return x + 1  # why\n'
    assert normalised(source) == normalised("def f(x):\n    return (x\n        + 1)\n")
    assert normalised(source) != normalised(source.replace("+ 1", "+ 2"))
    plain = "class A:\n    name: str = 'a'\n    weight: float = 0.5\n"
    assert normalised(plain + "    label: str = 'B'\n    inside: bool = True\n") == normalised(plain)
    assert normalised(plain + "    other: bool = True\n") != normalised(plain)
    assert normalised("label: str = 'B'\n") != normalised(""), "of classes alone"


def test_what_a_method_imports_counts_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a copy of the router's prototypes; evaluation/test_identity.py changes many more files."""
    own, find = Path(prototypes.__file__), fingerprint._file
    copies = [Path(shutil.copy(own.with_suffix(suffix), tmp_path)) for suffix in (".py", ".jsonl")]

    def prints() -> list[str]:
        code_fingerprint.cache_clear()
        return [code_fingerprint(f"clasp.methods.{name}") for name in ("clasp.method", "fastv")]

    monkeypatch.setattr(fingerprint, "_file", lambda name: copies[0] if name == prototypes.__name__ else find(name))
    before = prints()
    for path in copies:
        original = path.read_text(encoding="utf-8")
        path.write_text(original + "\nprint\n", encoding="utf-8")
        assert [now != then for now, then in zip(prints(), before, strict=True)] == [True, False], path.name
        path.write_text(original, encoding="utf-8")
    assert prints() == before, "of what files contain, not of when they were written"
