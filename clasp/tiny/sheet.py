"""A contact sheet of test scenes: ``python -m clasp.tiny.sheet results/reference/world_sheet.jpg``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clasp.tiny.painting import paint
from clasp.tiny.world import scene

ROWS, COLUMNS = 4, 6


def contact_sheet(split: str = "test", first: int = 0) -> Image.Image:
    """The images of 24 scenes of a split, starting with number ``first``, in raster order."""
    images = [paint(scene(split, first + number)).pixels for number in range(ROWS * COLUMNS)]
    rows = [np.concatenate(images[row * COLUMNS :][:COLUMNS], axis=1) for row in range(ROWS)]
    return Image.fromarray(np.concatenate(rows))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet().save(path, quality=90)
    print(f"written: {path}")
