"""Questions about scenes of the small world, by form: question text, answer, and plausible wrong answers.

If possible, a form draws the answer first and a matching thing second, so that answers are balanced and a model that
ignores the image gains little. A thing is referred to by an attribute that identifies it: its name, its color or
surface, its kind, or its position ("the animal left of the red car"). A form returns None for a scene that it does not
fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clasp.tiny.scene import (
    COLORS,
    INDOORS,
    KIND_OF,
    KINDS,
    LIGHTS,
    MATERIALS,
    NAMES,
    PLACES,
    SIDE,
    WEATHERS,
    Scene,
    Sign,
    Thing,
)
from clasp.tiny.words import WORDS
from clasp.tiny.world import MOST

T = TypeVar("T")

APART = 14.0
"""Minimum distance of two middles in pixels for one to count as left of or above the other."""
_BORDER = 8.0  # pixels kept free on both sides of a border between two thirds
RELATIONS = ("left of", "right of", "above", "below")
FLYING = ("plane", "rocket", "balloon", "bird", "butterfly", "kite", "duck")
FLOATING = ("boat", "fish", "duck", "turtle")
FRUIT = ("apple", "pear", "cherry")
WHEELS = ("car", "bus", "truck", "train")
USES = {
    "read": ("book",),
    "drink from": ("cup", "bottle"),
    "sit on": ("chair",),
    "wear": ("hat",),
    "live in": ("house", "castle", "tent"),
    "tell the time": ("clock",),
    "open a door": ("key",),
    "stay dry": ("umbrella", "house", "tent", "castle"),
    "play with": ("ball", "kite"),
    "light a room": ("lamp",),
}
"""Uses of things: knowledge that no image shows."""


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        category: the question category, one of ``clasp.categories.CATEGORIES``.
        form: name of the form, for checks and for the shares of a benchmark.
        text: the question.
        answer: in one or two words.
        wrong: plausible wrong answers, for options and disagreeing annotators.
        about: middle of the thing in question in pixels, or None.
    """

    category: str
    form: str
    text: str
    answer: str
    wrong: tuple[str, ...]
    about: tuple[float, float] | None = None


Form = Callable[[Scene, np.random.Generator], Question | None]


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of ``values``, each equally likely."""
    return values[int(rng.integers(len(values)))]


def others(answer: str, values: Sequence[str]) -> tuple[str, ...]:
    """``values`` without the answer."""
    return tuple(value for value in values if value != answer)


def plural(noun: str) -> str:
    """The plural of a name, kind or "thing"."""
    special = {
        "bus": "buses",
        "fish": "fish",
        "butterfly": "butterflies",
        "cherry": "cherries",
        "food": "pieces of food",
    }
    return special.get(noun, f"{noun}s")


def article(noun: str) -> str:
    """``noun`` with its article a or an."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def stands(one: Thing | Sign, relation: str, other: Thing | Sign) -> bool | None:
    """Whether ``one`` is left of, right of, above or below ``other``; None if they are too close to say."""
    gap = (other.x - one.x) if relation in ("left of", "right of") else (other.y - one.y)
    if relation in ("right of", "below"):
        gap = -gap
    return None if abs(gap) < APART else gap > 0


def nouns(thing: Thing) -> tuple[str, ...]:
    """Words for the thing, from specific to general."""
    return (thing.name, KIND_OF[thing.name], "thing")


def plain_references(shown: Scene, thing: Thing, hide: str = "") -> Iterator[str]:
    """Noun phrases that fit only this thing, without reference to another; ``hide`` is the attribute in question."""
    for noun in nouns(thing):
        if noun == thing.name and hide == "name":
            continue
        same = [other for other in shown.things if noun in nouns(other)]
        if len(same) == 1 and noun != "thing":
            yield noun
        if hide != "color" and sum(other.color == thing.color for other in same) == 1:
            yield f"{thing.color} {noun}"
        striking = thing.material != "plain" and hide != "material"
        if striking and sum(other.material == thing.material for other in same) == 1:
            yield f"{thing.material} {noun}"


def placed_references(shown: Scene, thing: Thing, rng: np.random.Generator, hide: str = "") -> Iterator[str]:
    """Noun phrases with the thing's position, for nouns that alone would fit several things."""
    for noun in nouns(thing)[1 if hide == "name" else 0 : 2]:
        same = [other for other in shown.things if noun in nouns(other)]
        if len(same) < 2:
            continue
        for anchor in _shuffled(rng, shown.things):
            if noun in nouns(anchor):
                continue
            phrases = list(plain_references(shown, anchor))
            for relation in _shuffled(rng, RELATIONS):
                found = [stands(other, relation, anchor) for other in same]
                if phrases and None not in found and sum(map(bool, found)) == 1 and stands(thing, relation, anchor):
                    yield f"{noun} {relation} the {pick(rng, phrases)}"


def _shuffled(rng: np.random.Generator, values: Sequence[T]) -> list[T]:
    return [values[n] for n in rng.permutation(len(values))]


def reference(shown: Scene, thing: Thing, rng: np.random.Generator, hide: str = "", placed: float = 0.5) -> str | None:
    """A noun phrase that identifies the thing, or None; ``placed``: probability of trying its position first."""
    if rng.random() < placed:
        found = next(placed_references(shown, thing, rng, hide), None)
        if found:
            return found
    phrases = list(plain_references(shown, thing, hide))
    return pick(rng, phrases) if phrases else None


def _asked_thing(
    shown: Scene, rng: np.random.Generator, hide: str, fits: Callable[[Thing], bool] = lambda _: True
) -> tuple[str, Thing] | None:
    for thing in _shuffled(rng, [thing for thing in shown.things if fits(thing)]):
        phrase = reference(shown, thing, rng, hide)
        if phrase:
            return phrase, thing
    return None


def color_of(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Which color a thing has."""
    wanted = pick(rng, COLORS)
    found = _asked_thing(shown, rng, "color", lambda thing: thing.color == wanted) or _asked_thing(shown, rng, "color")
    if not found:
        return None
    phrase, thing = found
    text = pick(rng, ["what color is the {}?", "what is the color of the {}?", "which color does the {} have?"])
    answer = thing.color
    return Question("attribute", "color_of", text.format(phrase), answer, others(answer, COLORS), (thing.x, thing.y))


def surface_of(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a thing is plain, striped or dotted."""
    wanted = pick(rng, MATERIALS)
    found = _asked_thing(shown, rng, "material", lambda thing: thing.material == wanted and thing.size >= 24)
    if not found:
        return None
    phrase, thing = found
    text = pick(rng, ["is the {} plain, striped or dotted?", "what pattern does the {} have?"])
    wrong = others(thing.material, MATERIALS)
    return Question("attribute", "surface_of", text.format(phrase), thing.material, wrong, (thing.x, thing.y))


def name_of(shown: Scene, rng: np.random.Generator) -> Question | None:
    """What a thing is, given any reference except its name."""
    found = _asked_thing(shown, rng, "name")
    if not found:
        return None
    phrase, thing = found
    text = pick(rng, ["what is the {}?", "what do you call the {}?", "name the {}."])
    wrong = others(thing.name, KINDS[KIND_OF[thing.name]])
    return Question("attribute", "name_of", text.format(phrase), thing.name, wrong, (thing.x, thing.y))


def _group(shown: Scene, rng: np.random.Generator) -> tuple[str, int] | None:
    """A group of things by name, kind or color, in the plural, and its size. The size is drawn first, uniformly from 1
    to 6; None if no group has that size."""
    groups: dict[str, int] = {}
    for thing in shown.things:
        for group in (*(plural(noun) for noun in nouns(thing)[:2]), f"{thing.color} things"):
            groups[group] = groups.get(group, 0) + 1
    wanted = int(rng.integers(1, MOST + 1))
    fitting = [group for group, number in groups.items() if number == wanted]
    return (pick(rng, fitting), wanted) if fitting else None


def count(shown: Scene, rng: np.random.Generator) -> Question | None:
    """How many things of a name, kind or color there are."""
    found = _group(shown, rng)
    if not found:
        return None
    text = pick(
        rng, ["how many {} are there?", "how many {} do you see?", "what is the number of {}?", "count the {}."]
    )
    wrong = tuple(str(number) for number in range(1, MOST + 1) if number != found[1])
    return Question("counting", "count", text.format(found[0]), str(found[1]), wrong)


def read_sign(shown: Scene, rng: np.random.Generator) -> Question | None:
    """What a sign says."""
    if not shown.signs:
        return None
    sign = pick(rng, shown.signs)
    what = "number" if sign.text.isdigit() else "word"
    alone = len(shown.signs) == 1
    texts = [
        "what does the sign say?",
        "what is written on the sign?",
        f"what {what} is on the sign?",
        "read the sign.",
    ]
    if not alone:
        texts = [f"what does the {sign.color} sign say?", f"read the {sign.color} sign."]
        if [other.text.isdigit() for other in shown.signs].count(sign.text.isdigit()) == 1:
            texts += [f"what {what} is shown?", f"which {what} can you read?"]
    return Question("ocr", "read_sign", pick(rng, texts), sign.text, _look_alikes(sign.text, rng), (sign.x, sign.y))


def _look_alikes(text: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Three other texts of the same or nearly the same length."""
    if text.isdigit():
        numbers = [str(n) for n in range(1, 100) if str(n) != text and len(str(n)) == len(text)]
        return tuple(numbers[n] for n in rng.choice(len(numbers), 3, replace=False))
    words = [word for word in WORDS if abs(len(word) - len(text)) <= (len(text) > 7) and word != text]
    return tuple(words[n] for n in rng.choice(len(words), 3, replace=False))


def first_letter(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The first or last letter of the only word."""
    words = [sign for sign in shown.signs if not sign.text.isdigit()]
    if len(words) != 1:
        return None
    end = pick(rng, ("first", "last"))
    answer = words[0].text[0 if end == "first" else -1]
    wrong = others(answer, [chr(65 + n) for n in rng.choice(26, 5, replace=False)])[:4]
    spot = (words[0].x, words[0].y)
    return Question("ocr", "first_letter", f"what is the {end} letter of the word?", answer, wrong, spot)


def sign_color(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The color of a sign, which may be identified by its text."""
    if not shown.signs:
        return None
    sign = pick(rng, shown.signs)
    phrase = "sign" if len(shown.signs) == 1 else f"sign that says {sign.text}"
    text = pick(rng, ["what color is the {}?", "which color does the {} have?"]).format(phrase)
    return Question("ocr" if "says" in phrase else "attribute", "sign_color", text, sign.color,
                    others(sign.color, COLORS), (sign.x, sign.y))  # fmt: skip


def side_of(shown: Scene, rng: np.random.Generator) -> Question | None:
    """In which third of the image a thing stands, across or down."""
    across = bool(rng.integers(2))
    answers = ("left", "middle", "right") if across else ("top", "middle", "bottom")
    wanted = pick(rng, answers)

    def fits(thing: Thing) -> bool:
        position, third = (thing.x if across else thing.y), SIDE / 3
        clear = min(abs(position - third), abs(position - 2 * third)) >= _BORDER
        return clear and answers[int(position // third)] == wanted

    for thing in _shuffled(rng, [thing for thing in shown.things if fits(thing)]):
        phrases = list(plain_references(shown, thing))
        if phrases:
            texts = (
                ["is the {} on the left, in the middle or on the right?", "on which side is the {}?"]
                if across
                else ["is the {} at the top, in the middle or at the bottom?", "at which height is the {}?"]
            )
            text = pick(rng, texts).format(pick(rng, phrases))
            return Question("spatial", "side_of", text, wanted, others(wanted, answers), (thing.x, thing.y))
    return None


def relation(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Which of two opposite relations holds between two things."""
    across = bool(rng.integers(2))
    pair = ("left", "right") if across else ("above", "below")
    names = ("left of", "right of") if across else pair
    wanted = int(rng.integers(2))
    for one in _shuffled(rng, shown.things):
        for other in _shuffled(rng, shown.things):
            if one is not other and stands(one, names[wanted], other):
                first, second = reference(shown, one, rng, placed=0.1), reference(shown, other, rng, placed=0.1)
                if first and second:
                    word = f"left or right of the {second}" if across else f"above or below the {second}"
                    text = pick(rng, ["is the {} {}?", "does the {} stand {}?"]).format(first, word)
                    return Question("spatial", "relation", text, pair[wanted], (pair[1 - wanted],), (one.x, one.y))
    return None


def what_stands(shown: Scene, rng: np.random.Generator) -> Question | None:
    """What the only thing of a kind left of, right of, above or below another is."""
    for thing in _shuffled(rng, shown.things):
        phrase = next(placed_references(shown, thing, rng, hide="name"), None)
        if phrase:
            noun, rest = phrase.split(" ", 1)
            text = pick(rng, [f"which {noun} is {rest}?", f"what is the {noun} {rest}?"])
            wrong = others(thing.name, KINDS[KIND_OF[thing.name]])
            return Question("spatial", "what_stands", text, thing.name, wrong, (thing.x, thing.y))
    return None


def place(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The place of the scene."""
    text = pick(rng, ["what place is this?", "where is this?", "which place does the image show?"])
    return Question("scene", "place", text, shown.place, others(shown.place, PLACES))


def light(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The time of the day."""
    text = pick(rng, ["is it day, evening or night?", "what time of day is it?"])
    return Question("scene", "light", text, shown.light, others(shown.light, LIGHTS))


def weather(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The weather, outdoors."""
    if shown.place in INDOORS:
        return None
    text = pick(rng, ["what is the weather like?", "how is the weather?", "is it sunny, cloudy, rainy or foggy?"])
    return Question("scene", "weather", text, shown.weather, others(shown.weather, WEATHERS))


def exists(shown: Scene, rng: np.random.Generator, absent: Sequence[str] = NAMES) -> Question | None:
    """Whether a thing is there; ``absent``: names to use for absent things."""
    wanted = bool(rng.integers(2))
    present = {thing.name for thing in shown.things}
    names = sorted(present) if wanted else [name for name in absent if name not in present]
    if not names:
        return None
    text = pick(rng, ["is there {} in the image?", "do you see {}?", "does the image show {}?"])
    return _yes_no("general", "exists", text.format(article(pick(rng, names))), wanted)


def _yes_no(category: str, form: str, text: str, truth: bool, about: tuple[float, float] | None = None) -> Question:
    return Question(category, form, text, "yes" if truth else "no", ("no" if truth else "yes",), about)


def is_colored(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a thing has a color."""
    found = _asked_thing(shown, rng, "color")
    if not found:
        return None
    phrase, thing = found
    truth = bool(rng.integers(2))
    color = thing.color if truth else pick(rng, others(thing.color, COLORS))
    return _yes_no("attribute", "is_colored", f"is the {phrase} {color}?", truth, (thing.x, thing.y))


def is_placed(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a thing stands left of, right of, above or below another."""
    truth = bool(rng.integers(2))
    for one in _shuffled(rng, shown.things):
        for other in _shuffled(rng, shown.things):
            for relation_ in _shuffled(rng, RELATIONS):
                if one is not other and stands(one, relation_, other) is truth:
                    first, second = reference(shown, one, rng, placed=0), reference(shown, other, rng, placed=0)
                    if first and second:
                        text = f"is the {first} {relation_} the {second}?"
                        return _yes_no("spatial", "is_placed", text, truth, (one.x, one.y))
    return None


def is_counted(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a group has a given size."""
    found = _group(shown, rng)
    if not found:
        return None
    group, number = found
    truth = bool(rng.integers(2))
    asked = number if truth else pick(rng, [n for n in (number - 2, number - 1, number + 1, number + 2) if n >= 1])
    return _yes_no("counting", "is_counted", f"is the number of {group} {asked}?", truth)


def is_placed_at(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether the scene shows a place."""
    truth = bool(rng.integers(2))
    name = shown.place if truth else pick(rng, others(shown.place, PLACES))
    return _yes_no("scene", "is_placed_at", f"does the image show a {name} scene?", truth)


def says(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a sign says a word or number."""
    if not shown.signs:
        return None
    sign, truth = pick(rng, shown.signs), bool(rng.integers(2))
    text = sign.text if truth else pick(rng, _look_alikes(sign.text, rng))
    if not truth and text in {other.text for other in shown.signs}:
        return None
    return _yes_no("ocr", "says", f"is there a sign that says {text}?", truth, (sign.x, sign.y))


def can_do(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether something in the image can do or be something, which requires knowledge."""
    facts = {"can fly": FLYING, "can float": FLOATING, "is a fruit": FRUIT, "has wheels": WHEELS, "is an animal":
             KINDS["animal"], "is a plant": KINDS["plant"], "is food": KINDS["food"], "is a building":
             KINDS["building"]}  # fmt: skip
    truth = bool(rng.integers(2))
    present = {thing.name for thing in shown.things}
    fitting = [fact for fact, names in facts.items() if bool(present & set(names)) is truth]
    if not fitting:
        return None
    return _yes_no("general", "can_do", f"is there anything that {pick(rng, fitting)}?", truth)


def compare(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether two things have the same color."""
    truth = rng.random() < 0.65  # two things of one color do not always exist
    for one in _shuffled(rng, shown.things):
        for other in _shuffled(rng, shown.things):
            if one is not other and (one.color == other.color) is truth:
                first = next(iter(_without_color(shown, one, rng)), None)
                second = next(iter(_without_color(shown, other, rng)), None)
                if first and second and first != second:
                    text = f"do the {first} and the {second} have the same color?"
                    return _yes_no("attribute", "compare", text, truth, (one.x, one.y))
    return None


def _without_color(shown: Scene, thing: Thing, rng: np.random.Generator) -> list[str]:
    return _shuffled(rng, list(plain_references(shown, thing, hide="color")))


def biggest(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Name or color of the thing that is clearly the largest."""
    order = sorted(shown.things, key=lambda thing: -thing.size)
    if len(order) < 2 or order[0].size < 1.4 * order[1].size:
        return None
    thing = order[0]
    if rng.random() < 0.5:
        text = pick(rng, ["what is the biggest thing?", "which thing is the largest?", "what is the main thing here?"])
        return Question("general", "biggest", text, thing.name, others(thing.name, NAMES), (thing.x, thing.y))
    text = pick(rng, ["what color is the biggest thing?", "which color does the largest thing have?"])
    return Question("attribute", "biggest", text, thing.color, others(thing.color, COLORS), (thing.x, thing.y))


def most_common(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The name that occurs most often."""
    names = [thing.name for thing in shown.things]
    counts = sorted(((names.count(name), name) for name in set(names)), reverse=True)
    if len(counts) < 2 or counts[0][0] < counts[1][0] + 2:
        return None
    text = pick(rng, ["what is there most of?", "which thing appears most often?"])
    return Question("general", "most_common", text, counts[0][1], others(counts[0][1], NAMES))


def used_for(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Which thing in the image serves a purpose."""
    fitting = []
    for use, names in USES.items():
        there = {thing.name for thing in shown.things} & set(names)
        if len(there) == 1:
            fitting.append((use, there.pop()))
    if not fitting:
        return None
    use, name = pick(rng, fitting)
    text = pick(rng, [f"which thing here can people use to {use}?", f"to {use}, which thing here would you take?"])
    useful = USES[use]
    wrong = tuple(other for other in NAMES if other not in useful)
    return Question("general", "used_for", text, name, wrong)


def near_sign(shown: Scene, rng: np.random.Generator) -> Question | None:
    """What the only thing of a kind next to a sign is: combines reading and position."""
    for sign in _shuffled(rng, shown.signs):
        for relation_ in _shuffled(rng, RELATIONS):
            for kind in _shuffled(rng, list(KINDS)):
                same = [thing for thing in shown.things if KIND_OF[thing.name] == kind]
                found = [stands(thing, relation_, sign) for thing in same]
                if None not in found and sum(map(bool, found)) == 1:
                    thing = same[found.index(True)]
                    phrase = "the sign" if len(shown.signs) == 1 else f"the sign that says {sign.text}"
                    text = f"which {kind} is {relation_} {phrase}?"
                    wrong = others(thing.name, KINDS[kind])
                    return Question("spatial", "near_sign", text, thing.name, wrong, (thing.x, thing.y))
    return None


def _changed_group(shown: Scene, rng: np.random.Generator) -> tuple[str, int, str] | None:
    """A group, its size after adding or removing one, and which of the two."""
    found = _group(shown, rng)
    if not found:
        return None
    more = bool(rng.integers(2))
    return found[0], found[1] + (1 if more else -1), "one more comes" if more else "one goes away"


def add(shown: Scene, rng: np.random.Generator) -> Question | None:
    """The size of a group, one more or one less."""
    found = _changed_group(shown, rng)
    if not found:
        return None
    group, size, change = found
    wrong = tuple(str(n) for n in range(MOST + 2) if n != size)
    return Question("counting", "add", f"how many {group} are there if {change}?", str(size), wrong)


def is_added(shown: Scene, rng: np.random.Generator) -> Question | None:
    """Whether a group has so many, one more or one less."""
    found = _changed_group(shown, rng)
    if not found:
        return None
    group, size, change = found
    truth = bool(rng.integers(2))
    asked = size if truth else pick(rng, [n for n in (size - 2, size - 1, size + 1, size + 2) if n >= 0])
    return _yes_no("counting", "is_added", f"if {change}, is the number of {group} {asked}?", truth)


FORMS: dict[str, Form] = {
    form.__name__: form
    for form in (
        *(color_of, surface_of, name_of, count, read_sign, first_letter, sign_color, side_of, relation, what_stands),
        *(place, light, weather, exists, is_colored, is_placed, is_counted, is_placed_at, says, can_do, compare),
        *(biggest, most_common, used_for, near_sign, add, is_added),
    )
}
"""Every form by its name."""


def ask(shown: Scene, form: str, rng: np.random.Generator, tries: int = 3) -> Question | None:
    """A question of ``form``, or None if it does not fit this scene."""
    if form not in FORMS:
        raise ValueError(f"Unknown form of question {form!r}: use one of {', '.join(FORMS)}.")
    for _ in range(tries):
        found = FORMS[form](shown, rng)
        if found:
            return found
    return None
