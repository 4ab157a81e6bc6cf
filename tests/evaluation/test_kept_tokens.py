"""What is stored for retention maps is what the engine kept."""

from __future__ import annotations

import base64
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_support import Configured, Loaded, rows_of
from PIL import Image

from clasp import CLASP
from clasp.backbones.presentation import Presentation
from clasp.config import RunConfig
from clasp.evaluation import kept_tokens
from clasp.evaluation.plan import plan
from clasp.methods import for_images, get
from clasp.report.retention_run import load_retention
from clasp.strict import ConfigError

SMALL = ["limit=1", "benchmarks.names=[tiny_textvqa]", "grid.tokens=[64]", "name=maps"]


def record(config: RunConfig) -> dict[str, Any]:
    path = kept_tokens.record(config, plan(config))
    assert path == config.paths.results / "retention" / "maps.json"
    return json.loads(path.read_text())


def test_it_holds_what_was_kept_and_asked(configured: Configured, tiny: Loaded, data_root: Path) -> None:
    stored = record(configured(*SMALL, "grid.method=[clasp]", "policy=default", "dtype=float32"))
    row = rows_of(data_root, "tiny_textvqa")[0]
    (question,), (one,) = stored["questions"], stored["maps"]
    for key in ("question", "answer", "category"):
        assert question[key] == row[key]
    model, processor = tiny
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    with CLASP(tokens=64)(model, processor) as run:
        model(**processor(images=image, text=text, return_tensors="pt"))
    sample = run.trace.samples[0]
    assert [stage["kept"] for stage in one["stages"]] == [kept.tolist() for kept in sample.kept]
    assert [set(stage["pivots"]) for stage in one["stages"]] == [
        set(kept[pivots].tolist()) for kept, pivots in zip(sample.kept, sample.pivots, strict=True)
    ]
    assert [stage["layer"] for stage in one["stages"]] == [stage.cut for stage in run.schedule.stages]
    assert (one["routed"], one["right"]) == (sample.category, one["prediction"] == row["answer"])
    assert stored["provenance"]["weights"]
    seen = Image.open(io.BytesIO(base64.b64decode(question["image"])))
    size = model.config.vision_config.image_size
    assert seen.size == (size, size)
    difference = np.asarray(seen, dtype=float) - np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(difference).mean() < 2.0


def test_every_method_gives_a_map_that_the_report_reads(configured: Configured) -> None:
    names = [name for name in for_images() if get(name).prunes]
    config = configured(*SMALL, f"grid.method=[{','.join(names)}]", "grid.tokens=[128]")
    kept_tokens.record(config, plan(config))
    ((_, maps),) = load_retention(config.paths.results, "maps")
    assert [one.row for one in maps] == names
    for one in maps:
        assert one.stages, one.row
        kept = [set(stage.kept) for stage in one.stages]
        assert all(later <= earlier for earlier, later in pairwise(kept)), one.row
        assert all(stage.pivots is None or stage.pivots <= set(stage.kept) for stage in one.stages), one.row


def test_own_images_can_be_drawn_one_to_a_question(configured: Configured, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    file = tmp_path / "mine.jsonl"
    line = {"image": "a.png", "question": "what color?", "answer": ["red", "crimson"]}
    file.write_text(json.dumps(line))
    own = ["limit=2", "benchmarks=custom", f"data={file}", "grid.method=[fastv]", "grid.tokens=[64]", "name=maps"]
    (question,) = record(configured(*own))["questions"]
    assert (question["answer"], question["category"]) == ("red", None)
    file.write_text(json.dumps(line | {"image": ["a.png", "a.png"]}))
    with pytest.raises(ConfigError, match="question 1 of custom_mine has 2 images"):
        record(configured(*own))


@pytest.mark.parametrize(
    ("overrides", "adapter", "message"),
    [
        (["grid.method=[none]", "grid.tokens=[]"], "llava", "method none drops no token"),
        (["limit=all"], "llava", "limit=all would draw every image"),
        (["benchmarks.names=[gqa]"], "llava", "benchmark gqa is not on this machine"),
        ([], "qwen2_5_vl", "cuts images"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_a_model_loads(
    configured: Configured, monkeypatch: pytest.MonkeyPatch, overrides: list[str], adapter: str, message: str
) -> None:
    monkeypatch.setattr(kept_tokens, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    config = configured(*SMALL, *overrides)
    monkeypatch.setattr(kept_tokens, "adapter_module", lambda *_: f"clasp.backbones.{adapter}")
    with pytest.raises(ConfigError, match=message):
        record(config)


def test_a_padded_image_is_drawn_as_the_model_sees_it(tiny: Loaded) -> None:
    processor, image = tiny[1], Image.new("RGB", (200, 100), (255, 0, 0))
    cropped, whole = (
        kept_tokens._preprocessed(image, processor, shown) for shown in (Presentation(), Presentation("pad"))
    )
    mean = tuple(int(255 * value) for value in processor.image_processor.image_mean)
    middle = (cropped.width // 2, cropped.height // 2)
    assert cropped.getpixel((0, 0)) == cropped.getpixel(middle) == whole.getpixel(middle) == (255, 0, 0)
    assert whole.getpixel((0, 0)) == mean
