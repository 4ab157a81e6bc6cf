"""Painted scenes: the same bytes every time, every attribute is visible, each visible pixel has its owner."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from clasp.tiny import scene as world
from clasp.tiny.painting import character_boxes, paint, sign_box
from clasp.tiny.places import GROUNDS
from clasp.tiny.scene import COLORS, LIGHTS, NAMES, PLACES, SIDE, Scene, Sign, Thing
from clasp.tiny.shapes import SHAPES
from clasp.tiny.things import INK, extent

EMPTY = Scene("meadow", "day", "sunny", (), (), (3,))
CAR = Thing("car", "red", "plain", 96.0, 110.0, 64.0)
SIGN = Sign("EXIT7", "yellow", 96.0, 40.0, 12.0)
FULL = replace(EMPTY, things=(CAR, Thing("cat", "blue", "dotted", 130.0, 120.0, 48.0, 20.0)), signs=(SIGN,))


@cache
def _seen(scene: Scene) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    painting = paint(scene)
    return painting.pixels.astype(np.int16), painting.owner


def _alone(**fields: object) -> Scene:
    return replace(EMPTY, things=(replace(CAR, **fields),))


def _apart(one: Scene, other: Scene) -> float:
    """Mean absolute difference of two pictures per channel, 0 to 255."""
    return float(np.abs(_seen(one)[0] - _seen(other)[0]).mean())


def test_shapes_types_and_tables() -> None:
    painting = paint(FULL)
    assert (painting.pixels.shape, painting.pixels.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert (painting.owner.shape, painting.owner.dtype) == ((SIDE, SIDE), np.int16)
    assert painting.pixels.flags.c_contiguous
    assert set(np.unique(painting.owner)) == {0, 1, 2, 3}
    assert (tuple(SHAPES), tuple(INK), tuple(GROUNDS)) == (NAMES, COLORS, PLACES)


def test_the_same_scene_is_the_same_bytes_in_another_process() -> None:
    first, second = paint(FULL), paint(FULL)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert first.owner.tobytes() == second.owner.tobytes()
    code = (
        "import hashlib; from clasp.tiny.painting import paint; from clasp.tiny.scene import *;"
        f"print(hashlib.sha256(paint({FULL!r}).pixels.tobytes()).hexdigest())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert answer == hashlib.sha256(first.pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("place", PLACES)
def test_places_lights_and_weathers_differ_more_than_seeds(place: str) -> None:
    """The mean picture over several seeds differs, so it is not a detail of one picture."""

    def mean(**fields: str) -> NDArray[np.float64]:
        scenes = [replace(EMPTY, place=place, seed=(seed,)) for seed in range(3)]
        return np.mean([_seen(replace(scene, **fields))[0] for scene in scenes], axis=0)

    for one, other in combinations(LIGHTS, 2):
        assert np.abs(mean(light=one) - mean(light=other)).mean() > 12, (one, other)
    for one, other in combinations(world.WEATHERS, 2):
        if place in world.INDOORS:
            assert np.array_equal(mean(weather=one), mean(weather=other)), "there is no weather indoors"
        else:
            assert np.abs(mean(weather=one) - mean(weather=other)).mean() > 5, (one, other)
    for other in PLACES:
        if other != place:
            assert np.abs(mean() - mean(place=other)).mean() > 8, other


def test_seeds_change_the_background_and_leave_the_owners() -> None:
    other = replace(FULL, seed=(4,))
    assert _apart(FULL, other) > 5
    assert np.array_equal(_seen(FULL)[1], _seen(other)[1])


@pytest.mark.parametrize("light", LIGHTS)
def test_colors_of_things_stay_apart_in_every_light(light: str) -> None:
    means = {}
    for color in COLORS:
        pixels, owner = _seen(replace(_alone(name="ball", color=color), light=light))
        means[color] = np.median(pixels[owner == 1], axis=0)
    for one, other in combinations(COLORS, 2):
        assert np.abs(means[one] - means[other]).max() > 24, (one, other, means[one], means[other])


@pytest.mark.parametrize("size", [24.0, 64.0])
def test_materials_show_and_names_change_the_picture(size: float) -> None:
    for color in COLORS:
        for one, other in combinations(world.MATERIALS, 2):
            pair = [_seen(_alone(name="cup", color=color, material=material, size=size)) for material in (one, other)]
            body = pair[0][1] == 1
            changed = np.abs(pair[0][0] - pair[1][0])[body].max(axis=1) > 60
            assert changed.mean() > 0.12, (color, one, other)
    for one, other in combinations(NAMES[::3], 2):
        assert _apart(_alone(name=one, size=size), _alone(name=other, size=size)) > 0.2, (one, other)


def test_silhouettes_of_all_names_differ() -> None:
    masks = {name: _seen(_alone(name=name))[1] == 1 for name in NAMES}
    for one, other in combinations(NAMES, 2):
        overlap = (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
        assert overlap < 0.85, (one, other, overlap)


@pytest.mark.parametrize("color", COLORS)
def test_the_main_color_prevails(color: str) -> None:
    """Of a plain thing's pixels by day, more are nearest to its own colour than to any other; outline set aside."""
    inks = np.array([INK[name] for name in COLORS])
    for name in NAMES:
        pixels, owner = _seen(replace(_alone(name=name, color=color), weather="cloudy"))
        mask = owner == 1
        inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
        nearest = np.abs(pixels[inner][:, None] - inks).sum(axis=2).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(COLORS))
        assert counts.argmax() == COLORS.index(color), (name, dict(zip(COLORS, counts.tolist(), strict=True)))


def test_owner_covers_exactly_what_a_thing_changes() -> None:
    rng = np.random.default_rng(0)
    for name in NAMES:
        x, y, size, angle = rng.uniform((20, 20, 16, -180), (170, 170, 90, 180)).tolist()
        scene = _alone(name=name, color="pink", x=x, y=y, size=size, angle=angle)
        changed = (_seen(scene)[0] != _seen(EMPTY)[0]).any(axis=2)
        owned = _seen(scene)[1] == 1
        assert owned.any()
        assert changed[owned].mean() > 0.97, "what is owned is painted"
        rim = np.zeros_like(owned)
        for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            rim |= np.roll(owned, (down, right), (0, 1))
        assert not changed[~owned & ~rim].any(), "what is painted is owned, but for half covered pixels at its edge"
        edges = np.clip(extent(scene.things[0]), 0, SIDE)
        rows, columns = np.nonzero(owned)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        slack = (found - edges) * [1, 1, -1, -1]
        assert ((slack >= 0) & (slack <= 2)).all(), (name, slack)


def test_later_things_and_signs_hide_earlier_ones() -> None:
    below = Thing("house", "green", "plain", 96.0, 96.0, 80.0)
    above = Thing("ball", "orange", "plain", 96.0, 96.0, 40.0)
    plate = Sign("A1", "white", 96.0, 96.0, 10.0)
    masks = [_seen(replace(EMPTY, things=(thing,)))[1] == 1 for thing in (below, above)]
    scene = replace(EMPTY, things=(below, above), signs=(plate,))
    pixels, owner = _seen(scene)
    left, top, right, bottom = sign_box(plate)
    on_plate = np.zeros((SIDE, SIDE), dtype=bool)
    on_plate[top:bottom, left:right] = True
    assert np.array_equal(owner == 3, on_plate)
    assert np.array_equal(owner == 2, masks[1] & ~on_plate)
    assert np.array_equal(owner == 1, masks[0] & ~masks[1] & ~on_plate)
    bare = _seen(replace(scene, things=()))[0]
    assert np.array_equal(pixels[on_plate], bare[on_plate]), "nothing shines through a plate"


def test_things_and_signs_at_the_edge_are_cut_and_those_outside_are_not_there() -> None:
    for x, y in ((0.0, 0.0), (192.0, 192.0), (0.0, 192.0), (-200.0, 96.0), (96.0, 500.0)):
        owner = paint(replace(EMPTY, things=(replace(CAR, x=x, y=y),), signs=(replace(SIGN, x=x, y=y),))).owner
        assert bool((owner == 2).any()) == (0 <= x <= SIDE and 0 <= y <= SIDE)


@pytest.mark.parametrize("font", range(len(world.FONTS)))
@pytest.mark.parametrize("pitch", [9.0, 12.5, 16.0])
def test_boxes_of_characters_hold_their_ink(font: int, pitch: float) -> None:
    for text in ("WMIJQ10", "8"):
        sign = Sign(text, "yellow", 96.0, 60.0, pitch, font)
        pixels, owner = _seen(replace(EMPTY, signs=(sign,)))
        left, top, right, bottom = sign_box(sign)
        assert (owner == 1).sum() == (right - left) * (bottom - top)
        dark = pixels.sum(axis=2) < 300
        boxes = character_boxes(sign)
        assert len(boxes) == len(text)
        inside = np.zeros_like(dark)
        for x0, y0, x1, y1 in boxes:
            assert left < x0 < x1 < right
            assert top < y0 < y1 < bottom
            assert abs(x1 - x0 - pitch) <= 1
            cell = dark[y0:y1, x0:x1]
            assert 0.05 < cell.mean() < 0.75, text
            assert cell[: (y1 - y0) // 3].any(), "letters fill their cells from top"
            assert cell[-(y1 - y0) // 3 :].any(), "to bottom"
            inside[y0:y1, x0:x1] = True
        plate = np.zeros_like(dark)
        plate[top + 1 : bottom - 1, left + 1 : right - 1] = True
        assert not (dark & plate & ~inside).any(), "no ink outside of the boxes"


def test_letters_contrast_with_plates_of_every_color() -> None:
    for color in COLORS:
        sign = replace(SIGN, color=color)
        for light in LIGHTS:
            pixels, _ = _seen(replace(EMPTY, signs=(sign,), light=light))
            x0, y0, x1, y1 = character_boxes(sign)[1]
            gray = pixels[y0:y1, x0:x1].mean(axis=2)
            assert np.ptp(gray) > 70, (color, light)
