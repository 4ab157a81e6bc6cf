"""Light and weather of the small world: colours of the sky, and their effect on the colour of a surface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from clasp.tiny.scene import INDOORS

RGB = tuple[int, int, int]

SKIES: dict[tuple[str, str], tuple[RGB, RGB, RGB]] = {
    ("day", "sunny"): ((92, 146, 204), (182, 210, 228), (240, 243, 246)),
    ("day", "cloudy"): ((146, 154, 164), (194, 199, 203), (222, 224, 226)),
    ("day", "rainy"): ((104, 112, 122), (142, 149, 155), (84, 90, 99)),
    ("day", "foggy"): ((196, 200, 202), (206, 208, 208), (210, 212, 212)),
    ("evening", "sunny"): ((96, 96, 150), (240, 162, 98), (242, 150, 122)),
    ("evening", "cloudy"): ((116, 98, 116), (212, 150, 114), (146, 110, 112)),
    ("evening", "rainy"): ((92, 76, 86), (158, 114, 96), (76, 62, 72)),
    ("evening", "foggy"): ((204, 170, 142), (216, 178, 144), (218, 182, 150)),
    ("night", "sunny"): ((10, 14, 42), (32, 42, 82), (24, 32, 64)),
    ("night", "cloudy"): ((22, 25, 38), (42, 46, 60), (62, 66, 80)),
    ("night", "rainy"): ((16, 18, 26), (32, 36, 45), (10, 12, 18)),
    ("night", "foggy"): ((60, 64, 74), (72, 76, 86), (76, 80, 90)),
}
"""Colours of the sky at the top and at the horizon, and of the clouds."""
_GROUND = {"day": (1.0, 1.0, 1.0), "evening": (1.0, 0.80, 0.62), "night": (0.40, 0.46, 0.60)}
_SURFACE = {"day": (1.0, 1.0, 1.0), "evening": (1.0, 0.90, 0.80), "night": (0.66, 0.69, 0.82)}
_SUN = {"sunny": 1.05, "cloudy": 0.90, "rainy": 0.80, "foggy": 0.92}
_LAMP = {"day": (1.0, 1.0, 0.98), "evening": (0.96, 0.80, 0.62), "night": (0.44, 0.44, 0.52)}


@dataclass(frozen=True)
class Air:
    """The effect of light and weather between a surface and the eye.

    Args:
        ground: factor of each channel on the background.
        surface: factor of each channel on things and signs, closer to 1 so that their colours remain distinguishable.
        veil: colour of fog or rain.
        far, near: share of the veil at the horizon and at the lower edge.
    """

    ground: tuple[float, float, float]
    surface: tuple[float, float, float]
    veil: RGB
    far: float
    near: float

    def seen(self, color: RGB, nearness: float = 1.0) -> RGB:
        """The visible colour of background; ``nearness`` is 0 at the horizon and 1 at the lower edge."""
        return _mix(color, self.ground, self.veil, self.far + (self.near - self.far) * nearness)

    def close(self, color: RGB) -> RGB:
        """The visible colour of a thing or a sign."""
        return _mix(color, self.surface, self.veil, 0.5 * self.near)


def _mix(color: RGB, gain: tuple[float, float, float], veil: RGB, share: float) -> RGB:
    clear = 1 - share
    return (
        min(255, max(0, int(color[0] * gain[0] * clear + veil[0] * share))),
        min(255, max(0, int(color[1] * gain[1] * clear + veil[1] * share))),
        min(255, max(0, int(color[2] * gain[2] * clear + veil[2] * share))),
    )


@lru_cache
def air(place: str, light: str, weather: str) -> Air:
    """The air at a place; weather has no effect indoors."""
    if place in INDOORS:
        return Air(_LAMP[light], _SURFACE[light], (0, 0, 0), 0.0, 0.0)
    sun = _SUN[weather]
    r, g, b = (value * sun for value in _GROUND[light])
    tone = 0.5 + 0.5 * sun
    red, green, blue = (value * tone for value in _SURFACE[light])
    far, near = {"foggy": (0.86, 0.42), "rainy": (0.45, 0.12)}.get(weather, (0.12, 0.0))
    if light == "night":  # thinner, so that the place stays visible
        far, near = 0.75 * far, 0.85 * near
    return Air((r, g, b), (red, green, blue), SKIES[light, weather][1], far, near)
