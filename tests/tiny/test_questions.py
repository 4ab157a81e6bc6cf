"""The small world's questions: true answers by other ways of counting, balanced, about one thing only, splits apart."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from clasp.categories import CATEGORIES
from clasp.tiny.captions import caption
from clasp.tiny.forms import BENCHMARKS, LETTERS, SUBTASKS, Item
from clasp.tiny.questions import FORMS, Question, ask, nouns, plural
from clasp.tiny.scene import COLORS, KIND_OF, KINDS, MATERIALS, NAMES, PLACES, Scene, Thing
from clasp.tiny.words import WORDS
from clasp.tiny.world import SPLITS, generator, scene

SCENES = 250
Asked = dict[str, list[tuple[Scene, Question]]]


@pytest.fixture(scope="module")
def asked() -> Asked:
    """Questions of every form about test scenes."""
    found: dict[str, list[tuple[Scene, Question]]] = {form: [] for form in FORMS}
    for index in range(SCENES):
        shown = scene("test", index)
        for form in FORMS:
            question = ask(shown, form, generator("test", index, 7))
            if question:
                found[form].append((shown, question))
    return found


@pytest.fixture(scope="module")
def items() -> dict[str, list[list[Item]]]:
    """Rows of every benchmark, a list for each scene that serves."""
    return {
        name: [rows for n in range(SCENES) if (rows := draw(scene("test", n), generator("test", n, 1)))]
        for name, draw in BENCHMARKS.items()
    }


def test_scenes_repeat_and_splits_share_none() -> None:
    drawn = {split: [scene(split, n) for n in range(100)] for split in SPLITS}
    scene.cache_clear()
    assert drawn == {split: [scene(split, n) for n in range(100)] for split in SPLITS}
    shown = [(one.things, one.signs) for scenes in drawn.values() for one in scenes]
    assert len(set(shown)) == len(shown)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"'valid'.*train, calibration, test"):
        scene("valid", 0)
    with pytest.raises(ValueError, match="-1 is negative"):
        scene("train", -1)
    with pytest.raises(ValueError, match=r"'guess'.*color_of"):
        ask(scene("train", 0), "guess", np.random.default_rng(0))


def test_words_are_not_the_worlds_own() -> None:
    assert all(re.fullmatch("[A-Z]{2,8}", word) for word in WORDS)
    assert not {word.lower() for word in WORDS} & {*NAMES, *COLORS, *MATERIALS, *PLACES, *KINDS}


def test_every_form_is_asked_and_has_a_wrong_answer(asked: Asked) -> None:
    for form, pairs in asked.items():
        assert len(pairs) > SCENES / 10, form
        for _, question in pairs:
            assert question.form == form
            assert question.category in CATEGORIES
            assert question.wrong
            assert question.answer not in question.wrong


def _fits(thing: Thing, words: list[str]) -> bool:
    """Whether a phrase of attributes and a noun describes a thing; parsed here independently of the package."""
    *attributes, noun = words
    return noun in nouns(thing) and all(word in (thing.color, thing.material) for word in attributes)


def _meant(shown: Scene, phrase: str) -> list[Thing]:
    """The things that a noun phrase fits; "left of" and other relations are evaluated."""
    parts = re.split(r" (left of|right of|above|below) the ", phrase)
    found = [thing for thing in shown.things if _fits(thing, parts[0].split())]
    if len(parts) == 3:
        (anchor,) = _meant(shown, parts[2])
        sign = {"left of": -1, "right of": 1, "above": -1, "below": 1}[parts[1]]
        axis = "x" if "of" in parts[1] else "y"
        found = [thing for thing in found if sign * (getattr(thing, axis) - getattr(anchor, axis)) > 0]
    return found


@pytest.mark.parametrize(
    ("form", "pattern", "attribute"),
    [
        ("color_of", r"(?:what color is|what is the color of|which color does) the (.*?)(?: have)?\?", "color"),
        ("surface_of", r"(?:is the (.*) plain, striped or dotted|what pattern does the (.*) have)\?", "material"),
        ("name_of", r"(?:what is|what do you call|name) the (.*)[?.]", "name"),
    ],
)
def test_a_phrase_fits_one_thing_whose_attribute_is_the_answer(
    asked: Asked, form: str, pattern: str, attribute: str
) -> None:
    for shown, question in asked[form]:
        match = re.fullmatch(pattern, question.text)
        assert match, question.text
        (thing,) = _meant(shown, next(group for group in match.groups() if group))
        assert getattr(thing, attribute) == question.answer, question.text
        assert question.about == (thing.x, thing.y)


def test_counts_are_right(asked: Asked) -> None:
    for shown, question in asked["count"]:
        group = re.sub(r"how many | are there| do you see|what is the number of |count the |[?.]", "", question.text)
        names = [(plural(one.name), plural(KIND_OF[one.name]), f"{one.color} things") for one in shown.things]
        assert str(sum(group in fitting for fitting in names)) == question.answer, question.text


def test_signs_are_read(asked: Asked) -> None:
    for shown, question in asked["read_sign"]:
        named = [sign for sign in shown.signs if f" {sign.color} " in question.text]
        if "word" in question.text or "number" in question.text:
            named = [sign for sign in shown.signs if sign.text.isdigit() == ("number" in question.text)]
        assert question.answer in {sign.text for sign in named or shown.signs}
        assert len(named) == 1 or len(shown.signs) == 1 or "which" in question.text


@pytest.mark.parametrize("form", ["is_placed", "is_colored", "exists", "says", "can_do", "is_counted", "compare"])
def test_yes_and_no_are_balanced(asked: Asked, form: str) -> None:
    said = Counter(question.answer for _, question in asked[form])
    assert set(said) == {"yes", "no"}
    assert 0.35 < said["yes"] / said.total() < 0.65, said


def test_existence_is_what_is_there(asked: Asked) -> None:
    for shown, question in asked["exists"]:
        (name,) = set(question.text.rstrip("?").split()) & set(NAMES)
        assert (name in {thing.name for thing in shown.things}) == (question.answer == "yes")


def test_rows_have_the_form_of_their_benchmark(items: dict[str, list[list[Item]]]) -> None:
    for groups in items.values():
        assert len(groups) > SCENES / 2
    for one, other in items["tiny_mme"]:
        assert {one.answer, other.answer} == {"yes", "no"}
        assert one.task == other.task
    assert {row.task for rows in items["tiny_mme"] for row in rows} == set(SUBTASKS)
    for rows in items["tiny_mmbench"]:
        chosen = [row.question.split(f"\n{row.answer}. ")[1].split("\n")[0] for row in rows]
        assert len(set(chosen)) == 1  # every rotation asks for the same answer
        assert [row.answer for row in rows] != [rows[0].answer] * len(rows)
        assert {row.answer for row in rows} == set(LETTERS[: len(rows)])
    assert {len(rows) for rows in items["tiny_mmbench"]} == {2, 3, 4}
    for (row,) in items["tiny_vqav2"]:
        assert len(row.answers) == 10
        assert Counter(row.answers).most_common(1)[0][0] == row.answer or row.answers.count(row.answer) >= 3
    tasks = Counter(row.task for (row,) in items["tiny_pope"])
    assert set(tasks) == {"random", "popular", "adversarial"}


def test_captions_tell_what_is_there() -> None:
    rng = np.random.default_rng(0)
    for index in range(SCENES):
        shown = scene("train", index)
        text = caption(shown, rng)
        present = {thing.name for thing in shown.things} | {plural(thing.name) for thing in shown.things}
        told = set(re.findall("[a-z]+", text)) & ({*NAMES} | {plural(name) for name in NAMES})
        assert told <= present, text
