"""Training images by number: pixels, label maps, captions and questions, of the small world and of easy-VQA.

Numbers from 0 on are train scenes; negative numbers index easy-VQA's train images from the end. Torch-free, because a
separate process paints them during training.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from clasp.tiny.captions import caption, inventory
from clasp.tiny.easy import EasyImage, easy_category, easy_images, shape_and_color, shape_cover
from clasp.tiny.forms import BENCHMARKS
from clasp.tiny.labels import FACTORS, label_maps
from clasp.tiny.painting import paint
from clasp.tiny.questions import FORMS, article, ask
from clasp.tiny.scene import COLORS, GRID
from clasp.tiny.world import scene

IGNORE = -100
"""Class of a patch whose label is unknown."""
GROUPS = (*BENCHMARKS, "easy", "plain", "list")
"""Groups of training questions in the log."""

_EASY_SHARE = 12  # one image in 12 is from easy-VQA

Asked = tuple[str, str, str]
"""(group, question, answer)."""


@cache
def easy_train() -> list[EasyImage]:
    """easy-VQA's train images."""
    return easy_images("train")


def pixels_and_labels(number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """``(192, 192, 3)`` RGB bytes and ``(factors, 576)`` classes of one training image."""
    if number < 0:
        return easy_train()[number].pixels(), easy_labels(easy_train()[number])
    shown = scene("train", number)
    painting = paint(shown)
    return painting.pixels, label_maps(shown, painting)


def caption_of(number: int, rng: np.random.Generator) -> str:
    """A caption of one training image."""
    if number >= 0:
        return caption(scene("train", number), rng)
    shape, color = shape_and_color(easy_train()[number])
    return f"a picture of {article(' '.join(word for word in (color, shape or 'shape') if word))}"


def questions_of(number: int, rng: np.random.Generator, count: int) -> list[Asked]:
    """Up to ``count`` questions about one training image; cycles through the benchmark forms in random order."""
    if number < 0:
        image = easy_train()[number]
        order = [image.questions[n] for n in rng.permutation(len(image.questions))]
        order.sort(key=lambda pair: easy_category(pair[0]) != "attribute")
        return [("easy", question, answer) for question, answer in order][:count]
    shown = scene("train", number)
    asked: list[Asked] = []
    while len(asked) < count:
        for n in rng.permutation(len(BENCHMARKS)):
            name = list(BENCHMARKS)[n]
            items = BENCHMARKS[name](shown, rng)
            items = items[:1] if name == "tiny_mmbench" else items
            asked += [(name, item.question, item.answer) for item in items]
    return asked[:count]


def plain_questions_of(number: int, rng: np.random.Generator, count: int) -> list[Asked]:
    """A list of all things of one train scene and up to ``count`` questions of any form, without options.

    Used at the start of training: every word of the list depends on the image, whereas prior frequencies answer many
    benchmark questions in part.
    """
    shown = scene("train", number)
    asked: list[Asked] = [("list", *inventory(shown))]
    for form in rng.permutation(list(FORMS)):
        question = ask(shown, str(form), rng, tries=1)
        if question:
            asked.append(("plain", question.text, question.answer))
    return asked[: count + 1]


def easy_labels(image: EasyImage) -> NDArray[np.int64]:
    """The label maps of an easy-VQA image, ``(factors, 576)``; IGNORE where the small world has no class."""
    cover = shape_cover(image.pixels()).reshape(-1)
    _, color = shape_and_color(image)
    tint = COLORS.index(color) + 1 if color in COLORS else IGNORE
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    maps = dict.fromkeys(FACTORS, np.full(GRID * GRID, IGNORE))
    maps |= {
        "name": np.where(cover, IGNORE, 0),
        "color": np.where(cover, tint, 0),
        "character": np.zeros(GRID * GRID, dtype=np.int64),
        "row": rows.reshape(-1),
        "column": columns.reshape(-1),
    }
    return np.stack([maps[factor] for factor in FACTORS])


Batch = tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]
"""Images ``(size, 192, 192, 3)``, label maps ``(size, factors, 576)`` and captions."""


def image_batch(seed: list[int], size: int) -> Batch:
    """The images, label maps and captions of one training step."""
    rng = np.random.default_rng(seed)
    numbers = [
        -1 - int(rng.integers(len(easy_train()))) if n % _EASY_SHARE == 0 else int(rng.integers(1 << 30))
        for n in range(size)
    ]
    shown = [pixels_and_labels(number) for number in numbers]
    captions = [caption_of(number, rng) for number in numbers]
    pixels, labels = (np.stack(parts) for parts in zip(*shown, strict=True))
    return pixels, labels, captions
