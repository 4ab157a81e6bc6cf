"""Goals of the check, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

METHOD = "clasp"
"""The method that speed goals are set for."""
NEXT_PREFILL, NEXT_SELECTION_MS, LLAVA_TOTAL, IDEAL = 7.0, 10.0, 2.0, 0.85
"""In order: prefill speed-up of LLaVA-NeXT at 160 of 2,880 tokens; its selection time in ms; end-to-end speed-up of
LLaVA-1.5 at 64 tokens; prefill speed-up at batch 8 as a share of the FLOPs-ideal."""
ONCE = 1
"""Allowed waits for the device per stage; one more in the ViT and for PruneSID (tests/engine/test_virtual_cuda.py)."""
MORE = ("tome", "mustdrop", "prunesid")


def goals(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its value, and whether it was met; None if its part was not run, or not on a GPU.

    Args:
        found: parts by name, as in the check's JSON.
    """
    return [{"goal": text, "value": value, "met": met} for text, value, met in _goals(found)]


def wrong(found: Mapping[str, Any]) -> list[str]:
    """Correctness errors, independent of speed: failed parts or methods, differing tokens."""
    said = [f"part {name}: {part['error']}" for name, part in found.items() if "error" in part]
    for row in found.get("matrix", {}).get("rows", []):
        place = f"{row['method']} on {row['family']}"
        if "error" in row:
            said.append(f"{place}: {row['error']}")
        elif row.get("differing"):
            said.append(f"{place}: {row['differing']} of {row['kept']} kept tokens differ from the CPU's")
        for form, seen in row.get("flash", {}).items():
            if "cosine" in seen and not (seen["cosine"] > found["matrix"]["near"] and seen["same_counts"]):
                said.append(f"{place}: {form} is not near sdpa (cosine {seen['cosine']:.3f})")
    return said


def _goals(found: Mapping[str, Any]) -> Iterator[tuple[str, float | None, bool | None]]:
    llava, following = found.get("llava", {}), found.get("next", {})
    budget = (llava.get("budgets") or [None, None])[-2]
    for batch, rows in llava.get("batches", {}).items():
        value = _row(rows, budget)["total_speedup"]
        yield (
            f"{llava['name']} at {budget} tokens, batch {batch}: end to end, times as fast",
            value,
            value >= LLAVA_TOTAL,
        )
    if llava.get("batches"):
        batch, rows = list(llava["batches"].items())[-1]
        for tokens in llava["budgets"]:
            value = _row(rows, tokens)["share_of_ideal"]
            yield f"{llava['name']} at {tokens} tokens, batch {batch}: share of FLOPs-ideal", value, value >= IDEAL
    if following.get("batches"):
        batch, rows = next(iter(following["batches"].items()))
        least = following["budgets"][-1]
        value = _row(rows, least)["prefill_speedup"]
        text = f"{following['name']} at {least} tokens, batch {batch}: prefill, times as fast"
        yield text, value, value >= NEXT_PREFILL
        for tokens in following["budgets"]:
            value = _row(rows, tokens)["ms"]["selection"]
            yield f"{following['name']} at {tokens} tokens: selection, ms", value, value <= NEXT_SELECTION_MS
    watched = [row for row in found.get("waits", {}).get("rows", []) if row["stages"] is not None]
    if watched:
        most = max(max(row["stages"], default=0) - (row["name"] in MORE) for row in watched)
        yield "waits for the device in a stage, at most", most, most <= ONCE


def _row(rows: list[dict[str, Any]], budget: int | None) -> dict[str, Any]:
    """Row of the goals' method at a budget, or of the first timed method if that one was not timed."""
    timed = [row for row in rows if row["name"].endswith(f" at {budget}")]
    return next((row for row in timed if row["name"].startswith(METHOD)), timed[0])
