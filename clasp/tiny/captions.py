"""Captions of scenes of the small world, for training the class token of the vision tower."""

from __future__ import annotations

import numpy as np

from clasp.tiny.questions import article, pick, plural, stands
from clasp.tiny.scene import INDOORS, Scene, Thing

_MOST_CLAUSES = 5


def caption(shown: Scene, rng: np.random.Generator) -> str:
    """One sentence about some of the things, the text of signs, the place, the light and the weather.

    Large things are mentioned more often than small ones, as in human captions.
    """
    clauses = _things(shown, rng)
    for sign in shown.signs:
        if rng.random() < 0.5:
            clauses.append(pick(rng, (f"a {sign.color} sign that says {sign.text}", f"a sign with {sign.text}")))
    clauses = [clauses[n] for n in rng.permutation(len(clauses))][:_MOST_CLAUSES]
    if rng.random() < 0.85:
        clauses.append(_surroundings(shown, rng))
    return f"{pick(rng, ('a picture of ', 'there is ', ''))}{', '.join(clauses)}"


def inventory(shown: Scene) -> tuple[str, str]:
    """The request for a list of everything from left to right, and that list: colors, names and texts of signs."""
    listed = [(thing.x, f"{thing.color} {thing.name}") for thing in shown.things]
    listed += [(sign.x, f"{sign.color} sign {sign.text}") for sign in shown.signs]
    return "list all from left to right.", ", ".join(text for _, text in sorted(listed))


def describe(thing: Thing, rng: np.random.Generator) -> str:
    """The thing with an article and some of its attributes."""
    words = [thing.color] if rng.random() < 0.8 else []
    if thing.material != "plain" and rng.random() < 0.4:
        words.insert(0, thing.material)
    if thing.size >= 54 and rng.random() < 0.3:
        words.insert(0, "big")
    return article(" ".join([*words, thing.name]))


def _things(shown: Scene, rng: np.random.Generator) -> list[str]:
    clauses = []
    mentioned: set[int] = set()
    for number, thing in enumerate(shown.things):
        if number in mentioned or rng.random() > min(1.0, 0.25 + thing.size / 50):
            continue
        same = [n for n, other in enumerate(shown.things) if (other.name, other.color) == (thing.name, thing.color)]
        if len(same) > 1:
            clauses.append(f"{len(same)} {thing.color} {plural(thing.name)}")
            mentioned.update(same)
            continue
        mentioned.add(number)
        beside = [n for n in range(len(shown.things)) if n not in mentioned]
        if beside and rng.random() < 0.4:
            other = int(beside[int(rng.integers(len(beside)))])
            relation = pick(rng, ("left of", "right of", "above", "below"))
            if stands(thing, relation, shown.things[other]):
                mentioned.add(other)
                clauses.append(f"{describe(thing, rng)} {relation} {describe(shown.things[other], rng)}")
                continue
        clauses.append(describe(thing, rng))
    return clauses


def _surroundings(shown: Scene, rng: np.random.Generator) -> str:
    words = [f"{shown.place} scene"]
    if shown.place not in INDOORS and rng.random() < 0.7:
        words.insert(0, shown.weather)
    if rng.random() < 0.7:
        words.append({"day": "by day", "evening": "in the evening", "night": "at night"}[shown.light])
    return f"a {' '.join(words)}"
