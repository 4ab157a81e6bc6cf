"""Images of any depth read as their 8-bit twins do, and those without a known white are refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_support import Loaded
from PIL import Image

from clasp.evaluation.generation.answering import Answerer, EvaluationError, Question
from clasp.evaluation.questions.images import ImageError, rgb
from clasp.methods import build

EVERY_GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
SIXTEEN_BITS, FLOATS = EVERY_GREY.astype(np.uint16) * 257, EVERY_GREY.astype(np.float32) / 255


def stored(values: Any, kind: str) -> Image.Image:
    """An image written to a file of some kind and opened again."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return Image.open(buffer)


@pytest.mark.parametrize(
    ("values", "kind", "mode"),
    [*((SIXTEEN_BITS, kind, "I") for kind in ("PNG", "TIFF", "PPM")), (FLOATS, "TIFF", "F")],
    ids=["PNG", "TIFF", "PPM", "float TIFF"],
)
def test_sixteen_bits_and_floats_read_as_eight_bits(values: Any, kind: str, mode: str) -> None:
    deep = stored(values, kind)
    assert deep.mode.startswith(mode)
    assert np.array_equal(rgb(deep), Image.fromarray(EVERY_GREY).convert("RGB"))
    assert not np.array_equal(deep.convert("RGB"), rgb(deep)), "PIL clips them"


@pytest.mark.parametrize(
    "values",
    [np.float32([[255.0]]), np.float32([[-0.1]]), np.float32([[0.5, np.nan]]), np.int32([[200]]), np.int32([[-1]])],
    ids=["float255", "negative float", "nan", "int", "negative int"],
)
def test_values_without_a_known_white_are_refused(values: Any) -> None:
    with pytest.raises(ImageError, match="white is not known; save it with 8 bits"):
        rgb(stored(values, "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_as_pil_converts_them(mode: str) -> None:
    image = Image.fromarray(np.stack([EVERY_GREY, EVERY_GREY.T, EVERY_GREY[::-1]], axis=2)).convert(mode)
    assert np.array_equal(rgb(image), image.convert("RGB"))


def test_a_deep_image_is_answered_as_its_twin(small: Loaded) -> None:
    grey = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17, np.ones((16, 16), np.uint8))
    answerer = Answerer(*small, build("none", {}))
    shallow, deep = (
        answerer._inputs([Question("q", "what?", [image])])["pixel_values"]
        for image in (Image.fromarray(grey), stored(grey.astype(np.uint16) * 257, "PNG"))
    )
    assert shallow.equal(deep)


def test_what_the_processor_refuses_is_named_with_its_file(small: Loaded, tmp_path: Path) -> None:
    """As Qwen's processor does with an aspect ratio above 200."""
    Image.new("RGB", (999, 2)).save(tmp_path / "long.png")
    images = Image.new("RGB", (32, 32)), Image.open(tmp_path / "long.png")
    answerer = Answerer(*small, build("none", {}), batch_size=2)
    image_processor, inner = answerer._preparing.image_processor, type(answerer._preparing.image_processor)

    class Strict(inner):
        def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
            flat = [image for row in images for image in (row if isinstance(row, list) else [row])]
            if any(max(image.size) > 200 * min(image.size) for image in flat):
                raise ValueError("absolute aspect ratio must be smaller than 200, got 499.5")
            return super().preprocess(images, *args, **kwargs)

    image_processor.__class__ = Strict
    with pytest.raises(EvaluationError, match=r"set\[1\] .*long.png of 999 x 2 pixels.*smaller than 200") as caught:
        answerer.answer([Question(f"set[{i}]", "what?", [image]) for i, image in enumerate(images)])
    assert "set[0]" not in str(caught.value)
