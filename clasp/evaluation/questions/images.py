"""Images as models get them: three channels of eight bits, deeper ones scaled by their range. Torch-free."""

from __future__ import annotations

from typing import Any

SIXTEEN_BITS = 65535
_DEEP = ("I", "F")  # beginnings of the modes; PIL clips all of them at 255


class ImageError(ValueError):
    """An image whose values have no known range; the message is a clause that says why, with the remedy."""


def rgb(image: Any) -> Any:
    """A PIL image as RGB. Grey values of 16 bits and floats from 0 to 1 are scaled to 8 bits, not clipped as PIL does.

    Raises:
        ImageError: 32-bit or float values of which it is not known what white is.
    """
    converted = (_scaled(image) if image.mode.startswith(_DEEP) else image).convert("RGB")
    converted.filename = getattr(image, "filename", "")  # lost otherwise, and messages name it
    return converted


def _scaled(image: Any) -> Any:
    """An image of deep grey values with 8 bits."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    low, high = values.min(), values.max()
    # files of 16 bits whose decoder has no mode for them come as I
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    white = SIXTEEN_BITS if sixteen else 1 if image.mode == "F" else None
    if white is None or not (low >= 0 and high <= white):  # also where a value is no number
        raise ImageError(
            f"its values of mode {image.mode} go from {low:g} to {high:g}, and which one is white is not known; save "
            "it with 8 bits a channel"
        )
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8))
