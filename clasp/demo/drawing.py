"""Images of the demo: opens uploaded files safely, and draws which tokens are kept."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Collection, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFile, ImageOps
from torch import Tensor

Frame = tuple[Image.Image, Tensor]
"""A part of an image as the ViT gets it, and (rows, columns) long, the index of the visual token of each grid cell."""

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
MAX_ASPECT = 20
"""Longest allowed ratio of the sides: scaling the shorter side up would make a long strip huge."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

PIVOT, COMPLETION, KEPT = (230, 135, 0), (0, 125, 200), (0, 158, 115)
"""Colours for pivots, completion tokens, and kept tokens of methods without these kinds, of Okabe and Ito's palette for
colour-blind readers. ``page.css`` has the same ones."""
_CELL = 16
"""Pixels of a visual token's side in a map."""


class DemoError(ValueError):
    """An unusable request; the message names the problem, what is allowed and the remedy."""


def check_size(size: int) -> None:
    """Raises:
    DemoError: a file of ``size`` bytes is too large.
    """
    if size > MAX_BYTES:
        raise DemoError(f"The image has more than {MAX_BYTES >> 20} MiB; save it smaller, for example as JPEG.")


def opened(data: bytes) -> Image.Image:
    """The image in a file's bytes, upright, RGB, with transparent parts on white.

    Raises:
        DemoError: too large, of another format, or damaged.
    """
    check_size(len(data))
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DemoError(f"The file is no image that can be read; use {', '.join(FORMATS)}.") from error
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise _damaged(image=None) from error
    width, height = image.size  # from the header; nothing has been decoded yet
    if width * height > MAX_PIXELS:
        raise DemoError(
            f"The image has {width} × {height} pixels; use one of at most {MAX_PIXELS // 10**6} million, scaled down."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DemoError(
            f"The image is {width} × {height} pixels, a strip; use one whose longer side is at most {MAX_ASPECT} times "
            "the shorter."
        )
    # libraries switch this on for a whole process, and half an image is then grey
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image.load()
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise _damaged(image.format) from error
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def _damaged(image: str | None) -> DemoError:
    return DemoError(f"The image is damaged ({image or 'its head'} cannot be decoded); save it anew and try again.")


def preprocessed(image: Image.Image, inputs: Any, processor: Any, grids: Sequence[Tensor]) -> list[Frame]:
    """The image as the ViT gets it: crop by crop, or whole once per grid.

    Args:
        inputs: the processor's output for one prompt with this image.
        grids: (rows, columns) each, the indices of its visual tokens, see :meth:`clasp.engine.Run.grids`.
    """
    pixels = inputs["pixel_values" if "pixel_values" in inputs else "pixel_values_images"]  # as Video-LLaVA calls them
    crops = pixels.flatten(0, -4) if pixels.ndim > 3 else []
    if len(crops) == len(grids):
        parts = [_restored(crop, processor.image_processor) for crop in crops]
    else:  # patches in one row (Qwen), or more tiles than grids: together they are the whole image
        parts = [image] * len(grids)
    return [
        (part.resize((grid.shape[1] * _CELL, grid.shape[0] * _CELL)), grid)
        for part, grid in zip(parts, grids, strict=True)
    ]


def _restored(crop: Tensor, processor: Any) -> Image.Image:
    """A crop (3, height, width) with its normalisation undone."""
    mean, std = (crop.new_tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    values = (crop.float() * std + mean).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


def kept_map(frames: Sequence[Frame], kept: Collection[int], pivots: Collection[int] | None) -> Image.Image:
    """The image with dropped tokens greyed and kept ones framed; several crops are laid out in rows.

    Args:
        frames: from :func:`preprocessed`.
        kept: indices of the kept tokens; those outside of the grids (newlines) are not drawn.
        pivots: the pivots among them, the others being completion tokens; None: the method has no such kinds.
    """
    across = math.ceil(math.sqrt(len(frames)))
    width = max(shown.width for shown, _ in frames) + _CELL
    height = max(shown.height for shown, _ in frames) + _CELL
    size = (across * width - _CELL, -(-len(frames) // across) * height - _CELL)
    sheet = Image.new("RGB", size, "white")
    for number, (shown, grid) in enumerate(frames):
        sheet.paste(_drawn(shown, grid, kept, pivots), (number % across * width, number // across * height))
    return sheet


def _drawn(shown: Image.Image, grid: Tensor, kept: Collection[int], pivots: Collection[int] | None) -> Image.Image:
    drawn = Image.blend(shown, Image.new("RGB", shown.size, (128, 128, 128)), 0.8)
    draw, stays = ImageDraw.Draw(drawn), set(kept)
    for row, indices in enumerate(grid.tolist()):
        for column, index in enumerate(indices):
            if index not in stays:
                continue
            box = (column * _CELL, row * _CELL, (column + 1) * _CELL, (row + 1) * _CELL)
            drawn.paste(shown.crop(box), box)
            colour = KEPT if pivots is None else PIVOT if index in pivots else COMPLETION
            draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=colour, width=2)
    return drawn


def data_url(image: Image.Image) -> str:
    """The image as a ``data:`` URL."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
