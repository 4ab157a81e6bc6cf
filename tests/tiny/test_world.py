"""The picture world: same pictures every time, splits apart, labels that match what is drawn, answers that are true."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from clasp.categories import CATEGORIES
from clasp.tiny.drawing import _INK, _INK_JITTER, render, shape_mask, text_mask
from clasp.tiny.questions import Question, ask
from clasp.tiny.world import (
    COLORS,
    DIGITS,
    GRID,
    LETTERS,
    NAMES,
    PATCH,
    SHAPES,
    SPLITS,
    TEXTURES,
    WORDS,
    Item,
    Scene,
    generator,
    label_map,
    scene,
)


def _asked(split: str, category: str, count: int) -> list[tuple[Scene, Question]]:
    pairs = []
    for index in range(count):
        picture = scene(split, index)
        question = ask(picture, category, generator(split, index, purpose=2))
        if question:
            pairs.append((picture, question))
    return pairs


def test_scenes_and_pictures_repeat() -> None:
    for split in SPLITS:
        assert scene(split, 7) == scene(split, 7)
        assert np.array_equal(render(scene(split, 7)), render(scene(split, 7)))
    assert render(scene("test", 7)).shape == (GRID * PATCH, GRID * PATCH, 3)


def test_splits_share_no_scene() -> None:
    layouts = {split: {(s.items, s.upper, s.lower) for s in (scene(split, n) for n in range(300))} for split in SPLITS}
    assert all(len(values) == 300 for values in layouts.values())
    assert not layouts["train"] & layouts["test"]
    assert not layouts["train"] & layouts["calibration"]
    assert not layouts["calibration"] & layouts["test"]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'valid'.*train, calibration, test"):
        scene("valid", 0)
    with pytest.raises(ValueError, match="-1"):
        scene("test", -1)
    with pytest.raises(ValueError, match=r"'maths'.*attribute"):
        ask(scene("test", 0), "maths", np.random.default_rng(0))


def test_objects_keep_apart_and_inside() -> None:
    for index in range(100):
        taken = np.zeros((GRID, GRID), dtype=bool)
        for item in scene("test", index).items:
            assert 0 <= item.row <= GRID - item.height
            assert 0 <= item.column <= GRID - item.width
            assert {item.height, item.width} <= set(range(2, 7))
            around = (slice(max(0, item.row - 1), item.row + item.height + 1), slice(max(0, item.column - 1), None))
            near = taken[around][:, : item.width + (1 if item.column == 0 else 2)]
            assert not near.any()
            taken[item.row : item.row + item.height, item.column : item.column + item.width] = True
        boxes = label_map(scene("test", index))["part"]
        assert (boxes == 1).sum() == len(scene("test", index).items)


def test_labels_match_the_drawing() -> None:
    """Where the label map names a color, pixels of that ink are found; elsewhere none are."""
    for index in range(40):
        picture = scene("test", index)
        pixels = render(picture).astype(int)
        maps = label_map(picture)
        assert set(np.unique(maps["texture"][: picture.horizon])) == {TEXTURES.index(picture.upper)}
        assert set(np.unique(maps["texture"][picture.horizon :])) == {TEXTURES.index(picture.lower)}
        inked = np.zeros((GRID, GRID), dtype=bool)
        for item in picture.items:
            top, left, height, width = (PATCH * n for n in (item.row, item.column, item.height, item.width))
            box = pixels[top : top + height, left : left + width]
            shape = item.kind == "shape"
            mask = shape_mask(item.name, height) if shape else text_mask(item.name.upper(), height, width)
            middle = np.median(box[mask], axis=0)
            assert np.abs(middle - np.clip(_INK[item.color], 0, 255)).max() <= _INK_JITTER + 6
            cells = maps["name"][item.row : item.row + item.height, item.column : item.column + item.width]
            assert (cells == NAMES.index(item.name) + 1).all()
            colors = maps["color"][item.row : item.row + item.height, item.column : item.column + item.width]
            assert (colors == COLORS.index(item.color) + 1).all()
            inked[item.row : item.row + item.height, item.column : item.column + item.width] = True
        assert np.array_equal(maps["name"] > 0, inked)


def test_characters_are_labelled_per_letter() -> None:
    picture = next(s for s in (scene("test", n) for n in range(50)) if s.of_kind("word"))
    word = picture.of_kind("word")[0]
    cells = label_map(picture)["character"][word.row, word.column : word.column + 6]
    assert [chr(int(c) + 64) for c in cells[::2]] == list(word.name.upper())


def test_every_name_draws_differently() -> None:
    shapes = {shape_mask(name, 16).tobytes() for name in SHAPES}
    texts = {text_mask(text, 24, 24).tobytes() for text in (*LETTERS, *DIGITS)}
    words = {text_mask(word.upper(), 16, 48).tobytes() for word in WORDS}
    assert (len(shapes), len(texts), len(words)) == (len(SHAPES), len(LETTERS) + len(DIGITS), len(WORDS))


def _expected(picture: Scene, question: str) -> str:
    """The answer worked out from the question's words and the scene, apart from the code that asked."""
    text = question.rstrip("?.").replace(",", "")
    nouns = [w for w in text.split() if w in SHAPES or w in ("letter", "digit", "word")]
    tint = next((w for w in text.split() if w in COLORS), None)

    def one(noun: str) -> Item:
        found = [i for i in picture.items if noun in (i.name, i.kind)]
        assert len(found) == 1, (question, found)
        return found[0]

    if re.search(r"pattern|background", text):
        return picture.upper if "upper" in text else picture.lower
    if "season" in text:
        return picture.season
    if re.search(r"how many|number of|count", text):
        subject = re.sub(r"how many|are there|what is the number of|count the", "", text).strip()
        if subject.endswith("shapes"):
            return str(sum(i.color == subject.split()[0] for i in picture.shapes))
        return str(sum(i.name == re.sub(r"(?<=cross)es$|s$", "", subject) for i in picture.shapes))
    if re.search(r"largest|biggest", text):
        big = max(picture.shapes, key=lambda i: i.height)
        return big.color if "color" in text else big.name
    if "most" in text:
        return Counter(i.name for i in picture.shapes).most_common(1)[0][0]
    if re.search(r"is there|does the picture|can you see", text):
        return "yes" if any(i.name == nouns[0] for i in picture.shapes) else "no"
    if "above or below" in text or "left or right" in text:
        first, second = (one(noun) for noun in nouns)
        if "above" in text:
            return "above" if first.row + first.height / 2 < second.row + second.height / 2 else "below"
        return "left" if first.column + first.width / 2 < second.column + second.width / 2 else "right"
    if re.search(r"top middle|height", text):
        return ("top", "middle", "bottom")[int((one(nouns[0]).row + one(nouns[0]).height / 2) // 8)]
    if re.search(r"left middle|side", text):
        return ("left", "middle", "right")[int((one(nouns[0]).column + one(nouns[0]).width / 2) // 8)]
    if re.search(r"size|big", text):
        return {2: "small", 3: "medium", 4: "medium"}.get(one(nouns[0]).height, "large")
    if "color" in text:
        return one(nouns[0]).color
    if "shape" in text:
        return next(i.name for i in picture.shapes if i.color == tint)
    found = [i for i in picture.items if i.kind == nouns[0] and tint in (None, i.color)]
    assert len(found) == 1
    return found[0].name


@pytest.mark.parametrize("category", CATEGORIES)
def test_answers_are_true(category: str) -> None:
    pairs = _asked("test", category, 400)
    assert len(pairs) > 150
    for picture, question in pairs:
        assert question.category == category
        assert _expected(picture, question.text) == question.answer, question


@pytest.mark.parametrize("category", CATEGORIES)
def test_answers_are_balanced(category: str) -> None:
    """Whoever always says the same, even per form of question, is right no more than the form's guess allows."""
    pairs = _asked("calibration", category, 1500)
    per_form: dict[tuple[str, ...], Counter[str]] = {}
    for _, question in pairs:
        key = (question.form, str("above" in question.text)) if question.form == "relation" else (question.form,)
        per_form.setdefault(key, Counter())[question.answer] += 1
    guessed = sum(counts.most_common(1)[0][1] for counts in per_form.values()) / len(pairs)
    allowed = {"attribute": 0.35, "counting": 0.4, "ocr": 0.15, "spatial": 0.5, "scene": 0.35, "general": 0.4}
    assert guessed <= allowed[category], per_form


@pytest.mark.parametrize("category", CATEGORIES)
def test_questions_have_several_phrasings(category: str) -> None:
    forms: dict[str, set[str]] = {}
    for _, question in _asked("train", category, 600):
        words = [w for w in re.findall(r"[a-z]+", question.text) if w not in (*SHAPES, *COLORS)]
        forms.setdefault(question.form, set()).add(" ".join(words))
    assert all(len(texts) >= 2 for texts in forms.values()), forms
