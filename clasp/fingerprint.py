"""Hashes of the code and of the models' files that answers depend on. Torch-free."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from clasp.files import file_digest

PACKAGE = "clasp"
SHOWN = ("label", "paper", "inside", "convention")
"""Attributes of :class:`clasp.methods.base.Method` that only tables show; no answer depends on them."""

_ANSWER_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model that answers depend on: weights, tokenizer, processor, prompt template."""


@cache
def code_fingerprint(*modules: str) -> str:
    """Hash of modules and of everything that they import from this package at module level, also indirectly.

    Comments, docstrings and layout do not count, so that only changes that may change a score make results stale.
    Imports inside functions and under ``TYPE_CHECKING`` are not followed; pass such a module if its code matters.
    A module's data file (``.jsonl`` of the same name) counts like its code.

    Args:
        modules: dotted names; imports of modules outside of the package (a user's own method) are not followed.
    """
    sources = [_file(module) for module in _closure(modules)]
    data = [path.with_suffix(".jsonl") for path in sources]
    return source_fingerprint([*sources, *(path for path in data if path.is_file())])


def source_fingerprint(paths: Iterable[Path]) -> str:
    """Hash of Python files without comments, docstrings and layout, and of other files as they are."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        state = path.stat()
        digest.update(path.name.encode() + b"\0" + _covered(path, state.st_size, state.st_mtime_ns) + b"\0")
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _covered(path: Path, size: int, changed: int) -> bytes:
    """The part of a file that a fingerprint covers; size and time of change are the key of the cache."""
    text = path.read_text(encoding="utf-8")
    return (normalised(text) if path.suffix == ".py" else text).encode()


def functions_fingerprint(*functions: Callable[..., object]) -> str:
    """Hash of single functions, for modules whose other parts change no answer."""
    source = "\0".join(normalised(inspect.getsource(function)) for function in functions)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def folder_fingerprint(folder: Path, code: bool = False, nested: bool = False) -> str:
    """Hash of the files of a model that its answers depend on.

    Args:
        folder: of the model.
        code: whether the Python files in the folder count, because the model runs them.
        nested: whether files in subfolders count.
    """
    digest = hashlib.sha256()
    files = {path for pattern in _ANSWER_FILES for path in (folder.rglob if nested else folder.glob)(pattern)}
    for path in [*sorted(files), *(sorted(folder.rglob("*.py")) if code else [])]:
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + bytes.fromhex(file_digest(path)))
    return f"sha256:{digest.hexdigest()[:24]}"


def normalised(source: str) -> str:
    """Python source without comments, docstrings, layout and the attributes in :data:`SHOWN`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            running = [item for item in body if not (_is_docstring(item) or _is_shown(node, item))]
            node.body = running or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_shown(owner: ast.AST, node: ast.AST) -> bool:
    named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    return isinstance(owner, ast.ClassDef) and named and node.target.id in SHOWN  # type: ignore[attr-defined]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _closure(modules: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        new = module not in seen
        seen.add(module)
        if new and _inside(module):  # imports of a user's own method are not followed
            path = _file(module)
            state = path.stat()
            waiting += _imports(path, state.st_size, state.st_mtime_ns)
    return seen


@cache
def _imports(path: Path, size: int, changed: int) -> list[str]:
    """Modules of this package that a file imports from at module level; size and time of change are the cache's key."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [module for module in named if _inside(module)]


def _inside(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def _file(module: str) -> Path:
    if _inside(module):
        # `find_spec` would import the parent packages, which takes 15 seconds for the engine
        path = Path(__file__).parents[1].joinpath(*module.split("."))
        found = [each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()]
    else:
        spec = find_spec(module)
        found = [] if spec is None or spec.origin is None else [Path(spec.origin)]
    if not found:
        raise ValueError(f"module {module!r} has no source file; define a method in a file of its own")
    return found[0]
