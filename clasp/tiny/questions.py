"""Questions about the scenes of the picture world, in the six categories, with several phrasings each.

A question is drawn for a wanted answer first and for a matching object second, so that answers are balanced and a
model that sees nothing gains little. A form that the scene cannot serve returns None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clasp.categories import CATEGORIES
from clasp.tiny.world import COLORS, GRID, SHAPES, Item, Scene

_MARGIN = 1.0  # patches kept free on both sides of a border between two answers
_WANTED_COUNTS = (0.23, 0.32, 0.45)  # of 1, 2, 3: the inverse of how often a scene can serve each
_APART = 4.0  # patches between two objects whose positions are compared


@dataclass(frozen=True)
class Question:
    """One question with its answer; ``form`` and ``about`` say what was asked, for checks that do not parse text."""

    category: str
    form: str
    about: tuple[str, ...]
    text: str
    answer: str


T = TypeVar("T")
Form = Callable[[Scene, np.random.Generator], Question | None]


def ask(picture: Scene, category: str, rng: np.random.Generator) -> Question | None:
    """A question of ``category`` about ``picture``, or None where the drawn form does not fit this scene."""
    if category not in CATEGORIES:
        raise ValueError(f"Unknown category {category!r}: use one of {', '.join(CATEGORIES)}.")
    forms, shares = zip(*_FORMS[category], strict=True)
    form: Form = forms[int(rng.choice(len(forms), p=np.asarray(shares) / sum(shares)))]
    return form(picture, rng)


def _pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def _unique(picture: Scene) -> list[tuple[str, Item]]:
    """Objects that one noun names: a shape that occurs once, the only letter or digit, the word."""
    found = []
    for name in SHAPES:
        same = [item for item in picture.shapes if item.name == name]
        if len(same) == 1:
            found.append((name, same[0]))
    for kind in ("letter", "digit", "word"):
        same = list(picture.of_kind(kind))
        if len(same) == 1:
            found.append((kind, same[0]))
    return found


def _color_of(picture: Scene, rng: np.random.Generator) -> Question | None:
    named = _unique(picture)
    if not named:
        return None
    noun, item = _pick(rng, named)
    text = _pick(rng, ["what color is the {}?", "what is the color of the {}?", "which color does the {} have?"])
    return Question("attribute", "color_of", (noun,), text.format(noun), item.color)


def _shape_of(picture: Scene, rng: np.random.Generator) -> Question | None:
    colors = [color for color in COLORS if sum(item.color == color for item in picture.shapes) == 1]
    if not colors:
        return None
    color = _pick(rng, colors)
    answer = next(item.name for item in picture.shapes if item.color == color)
    text = _pick(rng, ["what shape is {}?", "what is the {} shape?", "which shape is {}?"])
    return Question("attribute", "shape_of", (color,), text.format(color), answer)


def _size_of(picture: Scene, rng: np.random.Generator) -> Question | None:
    size = _pick(rng, ("small", "medium", "large"))
    named = [noun for noun, item in _unique(picture) if item.kind == "shape" and item.size == size]
    if not named:
        return None
    noun = _pick(rng, named)
    text = _pick(rng, ["what size is the {}?", "how big is the {}?", "what is the size of the {}?"])
    return Question("attribute", "size_of", (noun,), text.format(noun), size)


def _count(picture: Scene, rng: np.random.Generator) -> Question | None:
    groups = {name: sum(item.name == name for item in picture.shapes) for name in SHAPES}
    groups |= {f"{color} shape": sum(item.color == color for item in picture.shapes) for color in COLORS}
    # High counts are rarer in the scenes, so they are wanted more often: the answers come out even.
    answer = int(rng.choice(3, p=_WANTED_COUNTS)) + 1
    names = [group for group, count in groups.items() if count == answer and " " not in group]
    colors = [group for group, count in groups.items() if count == answer and " " in group]
    choices = [group for group in (names, colors) if group]
    if not choices:
        return None
    noun = _pick(rng, _pick(rng, choices))
    text = _pick(rng, ["how many {}s are there?", "what is the number of {}s?", "count the {}s."])
    plural = text.replace("{}s", "{}es") if noun == "cross" else text
    return Question("counting", "count", (noun,), plural.format(noun), str(answer))


def _read(picture: Scene, rng: np.random.Generator) -> Question | None:
    kind = _pick(rng, ("letter", "digit", "word", "word"))
    items = picture.of_kind(kind)
    if len(items) == 1:
        text = _pick(rng, ["what {} is shown?", "which {} is written?", "read the {}.", "what is the {}?"])
        return Question("ocr", "read", (kind,), text.format(kind), items[0].name)
    singled = [item for item in items if sum(other.color == item.color for other in items) == 1]
    if not singled:
        return None
    item = _pick(rng, singled)
    text = _pick(rng, ["what is the {} {}?", "read the {} {}.", "which {} {} is written?"])
    return Question("ocr", "read", (item.color, kind), text.format(item.color, kind), item.name)


def _thirds(position: float, answers: tuple[str, str, str]) -> str | None:
    """Which third of the picture a position in patches lies in; None near a border."""
    third = GRID / 3
    if abs(position - third) < _MARGIN or abs(position - 2 * third) < _MARGIN:
        return None
    return answers[int(position // third)]


def _where(axis: int, answers: tuple[str, str, str], texts: list[str]) -> Form:
    def form(picture: Scene, rng: np.random.Generator) -> Question | None:
        answer = _pick(rng, answers)
        named = [noun for noun, item in _unique(picture) if _thirds(item.center[axis], answers) == answer]
        if not named:
            return None
        noun = _pick(rng, named)
        form_name = "column_of" if axis else "row_of"
        return Question("spatial", form_name, (noun,), _pick(rng, texts).format(noun), answer)

    return form


def _relation(picture: Scene, rng: np.random.Generator) -> Question | None:
    axis = int(rng.integers(2))
    answers = (("above", "below"), ("left", "right"))[axis]
    named = _unique(picture)
    pairs = [
        (first, second)
        for first, one in named
        for second, two in named
        if abs(one.center[axis] - two.center[axis]) >= _APART
    ]
    if not pairs:
        return None
    first, second = _pick(rng, pairs)
    items = dict(named)
    answer = answers[int(items[first].center[axis] > items[second].center[axis])]
    text = (
        _pick(rng, ["is the {} above or below the {}?", "does the {} lie above or below the {}?"]),
        _pick(rng, ["is the {} left or right of the {}?", "does the {} lie left or right of the {}?"]),
    )[axis]
    return Question("spatial", "relation", (first, second), text.format(first, second), answer)


def _texture(picture: Scene, rng: np.random.Generator) -> Question | None:
    part = _pick(rng, ("upper", "lower"))
    answer = picture.upper if part == "upper" else picture.lower
    texts = ["what pattern is in the {} part?", "which pattern fills the {} half?", "what is the {} background like?"]
    return Question("scene", "texture", (part,), _pick(rng, texts).format(part), answer)


def _season(picture: Scene, rng: np.random.Generator) -> Question | None:
    text = _pick(rng, ["what season is it?", "which season does the scene show?", "in which season is the scene?"])
    return Question("scene", "season", (), text, picture.season)


def _exists(picture: Scene, rng: np.random.Generator) -> Question | None:
    wanted = bool(rng.integers(2))
    present = {item.name for item in picture.shapes}
    names = [name for name in SHAPES if (name in present) == wanted]
    if not names:
        return None
    name = _pick(rng, names)
    text = _pick(rng, ["is there a {}?", "does the picture show a {}?", "can you see a {}?"])
    return Question("general", "exists", (name,), text.format(name), "yes" if wanted else "no")


def _largest(picture: Scene, rng: np.random.Generator) -> Question | None:
    large = [item for item in picture.shapes if item.size == "large"]
    if len(large) != 1:
        return None
    if rng.random() < 0.5:
        text = _pick(rng, ["what is the largest shape?", "which shape is the biggest?"])
        return Question("general", "largest", ("shape",), text, large[0].name)
    text = _pick(rng, ["what color is the largest shape?", "which color does the biggest shape have?"])
    return Question("general", "largest", ("color",), text, large[0].color)


def _most(picture: Scene, rng: np.random.Generator) -> Question | None:
    counts = sorted(((sum(item.name == name for item in picture.shapes), name) for name in SHAPES), reverse=True)
    if counts[0][0] < counts[1][0] + 1 or counts[0][0] < 2:
        return None
    text = _pick(rng, ["which shape appears most often?", "what is the most common shape?"])
    return Question("general", "most", (), text, counts[0][1])


_FORMS: dict[str, list[tuple[Form, float]]] = {
    "attribute": [(_color_of, 0.6), (_shape_of, 0.25), (_size_of, 0.15)],
    "counting": [(_count, 1.0)],
    "ocr": [(_read, 1.0)],
    "spatial": [
        (
            _where(
                0,
                ("top", "middle", "bottom"),
                ["is the {} at the top, middle or bottom?", "at which height is the {}?"],
            ),
            0.4,
        ),
        (
            _where(
                1,
                ("left", "middle", "right"),
                ["is the {} on the left, middle or right?", "on which side is the {}?"],
            ),
            0.4,
        ),
        (_relation, 0.2),
    ],
    "scene": [(_texture, 0.65), (_season, 0.35)],
    "general": [(_exists, 0.3), (_largest, 0.5), (_most, 0.2)],
}
