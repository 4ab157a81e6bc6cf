"""How many questions published benchmarks have, for plans made before a data set is here. Torch-free."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Of a benchmark on a hub.

    Args:
        questions: that ``limit=all`` asks, as published; a cell that exists says what was really there.
        source: where that number stands.
        new_tokens: that an answer takes, the end token included. An assumption, where nothing was measured.
    """

    questions: int
    source: str
    new_tokens: float = 3.0


SIZES: dict[str, Size] = {
    "gqa": Size(12_578, "test-dev balanced, Hudson and Manning 2019 (arXiv 1902.09506)"),
    "mmbench": Size(4_329, "English dev, circular, Liu et al. 2023 (arXiv 2307.06281)"),
    "mme": Size(2_374, "14 subtasks, Fu et al. 2023 (arXiv 2306.13394)"),
    "pope": Size(9_000, "three splits of 3,000, Li et al. 2023 (arXiv 2305.10355)"),
    "sqa": Size(2_017, "test questions with images, Lu et al. 2022 (arXiv 2209.09513)"),
    "vqav2": Size(214_354, "validation, Goyal et al. 2017 (arXiv 1612.00837)"),
    "vqav2_testdev": Size(107_394, "test-dev, Goyal et al. 2017 (arXiv 1612.00837)"),
    "textvqa": Size(5_000, "validation, Singh et al. 2019 (arXiv 1904.08920)"),
    "textvqa_ocr": Size(5_000, "validation, Singh et al. 2019 (arXiv 1904.08920)"),
    "mmvet": Size(218, "Yu et al. 2023 (arXiv 2308.02490)", new_tokens=100.0),
}
