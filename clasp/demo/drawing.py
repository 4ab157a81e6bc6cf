"""Images of the demo: opens uploaded files safely, and draws the kept tokens over them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Collection
from typing import Any

from PIL import Image, ImageDraw, ImageFile, ImageOps

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
MAX_ASPECT = 20
"""Longer side by shorter one: a processor that scales the shorter side up makes a long strip huge."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

PIVOT, COMPLETION, KEPT = (230, 135, 0), (0, 125, 200), (0, 158, 115)
"""Colours of Okabe and Ito's palette, distinct to most eyes: pivots, completion tokens, and kept tokens of methods
without such kinds. :data:`clasp/demo/page.css` has the same."""
_CELL = 16
"""Pixels of a visual token's side in a map."""


class DemoError(ValueError):
    """Something that a visitor sent cannot be used; the message says what, what is allowed and the remedy."""


def opened(data: bytes) -> Image.Image:
    """The image in a file's bytes, upright, RGB, with transparent parts on white.

    Raises:
        DemoError: too large, of another format, or damaged.
    """
    if len(data) > MAX_BYTES:
        raise DemoError(f"The image has more than {MAX_BYTES >> 20} MiB; save it smaller, for example as JPEG.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DemoError(f"The file is no image that can be read; use {', '.join(FORMATS)}.") from error
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as error:
        raise _damaged(image=None) from error
    width, height = image.size  # of the head; nothing has been decoded yet
    if width * height > MAX_PIXELS:
        raise DemoError(
            f"The image has {width} × {height} pixels; use one of at most {MAX_PIXELS // 10**6} million, scaled down."
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DemoError(
            f"The image is {width} × {height} pixels, a strip; use one whose longer side is at most {MAX_ASPECT} times "
            "the shorter."
        )
    ImageFile.LOAD_TRUNCATED_IMAGES = (
        False  # libraries switch it on for a whole process, and half an image is then grey
    )
    try:
        image.load()
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise _damaged(image.format) from error
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def _damaged(image: str | None) -> DemoError:
    return DemoError(f"The image is damaged ({image or 'its head'} cannot be decoded); save it anew and try again.")


def preprocessed(image: Image.Image, inputs: Any, processor: Any) -> tuple[Image.Image, tuple[int, int]] | None:
    """The image as the ViT gets it, and the (rows, columns) of its visual tokens in reading order.

    Args:
        inputs: the processor's output for one prompt with this image.

    Returns:
        None where the tokens are no single grid over the image: crops at two scales, or frames.
    """
    grid = inputs.get("image_grid_thw")
    if grid is not None:  # Qwen: the whole image at a size of its own
        merge = processor.image_processor.merge_size
        rows, columns = int(grid[0, 1]) // merge, int(grid[0, 2]) // merge
        return image.resize((columns * _CELL, rows * _CELL)), (rows, columns)
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or len(pixels) != 1:
        return None
    tokens = int((inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(processor.image_token)).sum())
    side = round(tokens**0.5)
    if side * side != tokens:
        return None
    mean, std = (
        pixels.new_tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    values = (pixels[0].float() * std + mean).clamp(0, 1).mul(255).round().byte()  # (3, height, width)
    shown = Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
    return shown.resize((side * _CELL, side * _CELL)), (side, side)


def kept_map(
    shown: Image.Image, grid: tuple[int, int], kept: Collection[int], pivots: Collection[int] | None
) -> Image.Image:
    """The image with dropped tokens paled and kept ones framed.

    Args:
        shown, grid: of :func:`preprocessed`.
        kept: indices of the tokens that stay, in reading order.
        pivots: those of them that are pivots, the others being completion; None: the method has no such kinds.
    """
    rows, columns = grid
    drawn = Image.blend(shown, Image.new("RGB", shown.size, (128, 128, 128)), 0.8)
    draw = ImageDraw.Draw(drawn)
    for index in kept:
        row, column = divmod(index, columns)
        if not 0 <= row < rows:
            raise IndexError(f"token {index} is outside of a grid of {rows} x {columns}")
        box = (column * _CELL, row * _CELL, (column + 1) * _CELL, (row + 1) * _CELL)
        drawn.paste(shown.crop(box), box)
        colour = KEPT if pivots is None else PIVOT if index in pivots else COMPLETION
        draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=colour, width=2)
    return drawn


def data_url(image: Image.Image) -> str:
    """The image inside an address."""
    out = io.BytesIO()
    image.save(out, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
