"""Measures routers on labelled prompts: accuracy, confusions, and time per prompt with empty caches."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clasp.categories import CATEGORIES
from clasp.evaluation.routing.prompts import SETS, Prompt, prompts_hash
from clasp.files import write_json
from clasp.fingerprint import code_fingerprint
from clasp.methods.clasp.router import EmbeddingRouter, FixedRouter, OracleRouter, Router, forget, make_router
from clasp.results.provenance import now, provenance

SCHEMA = 1
FILE = "router.json"
MEASURED = ("embedding", "keyword", FixedRouter.name, "random")
"""Every router but ``oracle``, which is right by definition."""
BATCH = 32
"""Prompts per call of a router."""
PASSES = 3
"""Passes over a set, of which the fastest counts: other work on the machine only ever adds time."""
_WARM_UP = ("What is this measurement's first prompt?", "How long does the second one take?")
_ASSUMPTIONS = ("the six categories, and the labels of prompts that could be read in two ways",)


@dataclass(frozen=True)
class Measurement:
    """One router on one set.

    Args:
        confusion: (true category, routed category), prompts, both in the order of :data:`clasp.categories.CATEGORIES`.
        ms_per_prompt: wall time in milliseconds, encoder loaded, no prompt cached, the fastest pass.
    """

    confusion: tuple[tuple[int, ...], ...]
    ms_per_prompt: float


def measure(router: Router, prompts: Sequence[Prompt]) -> Measurement:
    """Routes ``prompts`` in batches of :data:`BATCH`.

    Raises:
        ValueError: no prompts, or a router that takes its categories from the caller.
    """
    if not prompts:
        raise ValueError("no prompts to measure a router on; give at least one")
    if isinstance(router, OracleRouter):
        raise ValueError(f"router 'oracle' is right by definition; measure one of {', '.join(MEASURED)}")
    router.route(_WARM_UP)
    passes = [_timed(router, prompts) for _ in range(PASSES)]
    routed, elapsed = passes[0][0], min(seconds for _, seconds in passes)
    counts = [[0] * len(CATEGORIES) for _ in CATEGORIES]
    for prompt, category in zip(prompts, routed, strict=True):
        counts[CATEGORIES.index(prompt.category)][CATEGORIES.index(category)] += 1
    return Measurement(tuple(tuple(row) for row in counts), 1000 * elapsed / len(prompts))


def _timed(router: Router, prompts: Sequence[Prompt]) -> tuple[list[str], float]:
    """The categories, and the seconds that they took with empty caches."""
    if isinstance(router, EmbeddingRouter):
        forget()
    started = time.perf_counter()
    routed: list[str] = []
    for start in range(0, len(prompts), BATCH):
        routed += router.route([prompt.text for prompt in prompts[start : start + BATCH]])
    return routed, time.perf_counter() - started


def measure_all(results: Path, names: Sequence[str] = MEASURED) -> Path:
    """Measures the routers ``names`` on every set and writes ``<results>/router.json``.

    Returns:
        The file.

    Raises:
        RouterError: a router is unknown or cannot work here.
    """
    import torch

    started = now()
    routers = [make_router(name) for name in names]
    sets = {name: prompts() for name, prompts in SETS.items()}
    content = {
        "schema": SCHEMA,
        "categories": list(CATEGORIES),
        "batch": BATCH,
        "code": code_fingerprint("clasp.methods.clasp.router"),
        "device": {"type": "cpu", "machine": platform.machine(), "threads": torch.get_num_threads()},  # of routers
        "sets": {
            name: {
                "hash": prompts_hash(prompts),
                "prompts": len(prompts),
                "routers": {router.name: asdict(measure(router, prompts)) for router in routers},
            }
            for name, prompts in sets.items()
        },
        "provenance": provenance(started, _ASSUMPTIONS),
    }
    return write_json(results / FILE, content)
