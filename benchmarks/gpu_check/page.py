"""The results of the check as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.tables import grid, method_cells, method_columns, mib, steadiness


def page(found: Mapping[str, Any]) -> str:
    """The whole page: verdicts first, then the results of each part."""
    parts = found["parts"]
    lines = [
        f"# GPU check: {found['geometry']}",
        "",
        f"{found['device']}, torch {found['torch']}, transformers {found['transformers']}, CLASP {found['clasp']}; "
        f"{found['seconds']:.0f} s. Weights are random, in {found['dtype']}; nothing is downloaded.",
        "",
        *_verdict(found),
    ]
    writers = {"llava": _times, "next": _times, "waits": _waits, "matrix": _matrix}
    for name, part in parts.items():
        lines += ["", f"## {TITLES[name]}", ""]
        reason = part.get("error") or part.get("left_out_part")
        lines += [f"Not measured: {reason}."] if reason else list(writers[name](part))
    return "\n".join(lines) + "\n"


TITLES = {
    "llava": "LLaVA-1.5: end to end, prefill against the FLOPs-ideal, peak memory",
    "waits": "How often a stage waits for the device",
    "next": "LLaVA-NeXT: prefill and selection",
    "matrix": "Every method on every family: the device against the CPU, flash attention against sdpa",
}


def _verdict(found: Mapping[str, Any]) -> Iterator[str]:
    yield "Correct." if not found["wrong"] else "NOT as it must be:"
    yield from (f"- {text}" for text in found["wrong"])
    yield ""
    cells = [[goal["goal"], f"{goal['value']:.2f}", "yes" if goal["met"] else "no"] for goal in found["goals"]]
    if not cells:
        yield "No goal was measured."
    elif found["on_gpu"]:
        yield from grid(["goal", "measured", "met"], cells)
    else:
        yield "Goals are for a GPU; on this device the numbers only show that all of it runs."
        yield ""
        yield from grid(["goal", "measured"], [cell[:2] for cell in cells])


def _times(part: Mapping[str, Any]) -> Iterator[str]:
    newlines = f" ({part['newlines']} of them newlines)" if part["newlines"] else ""
    yield (
        f"{part['name']}: {part['visual_tokens']} visual{newlines} and {part['text_tokens']} text tokens a prompt. "
        "Times in ms for the whole batch, medians; prefill holds router, fusion and selection; end to end is one "
        f"`generate` of a word and the end token. Peak: beside the weights ({mib(part['weight_bytes'])} MiB)."
    )
    yield from (f"Left out: {reason}." for reason in part["left_out"].values())
    yield steadiness(part["pulse_ms"])
    waits = any(row["waits"] for rows in part["batches"].values() for row in rows)
    for batch, rows in part["batches"].items():
        yield from ("", f"Batch {batch}", "")
        yield from grid(method_columns(waits), [method_cells(row, waits) for row in rows])


def _waits(part: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{part['shape']} at {part['tokens']} tokens, batch 1: calls of the CUDA runtime that wait, counted by the "
        "profiler inside each stage; `-`: the device has no CUDA runtime."
    )
    yield ""
    yield from grid(
        ["method", "waits by stage"],
        [[row["name"], "-" if row["stages"] is None else ", ".join(map(str, row["stages"]))] for row in part["rows"]],
    )
    yield from (f"Left out: {reason}." for reason in part["left_out"].values())


def _matrix(part: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Small models of each family, {part['ratio']:.0%} of the visual tokens removed. float32: kept tokens that "
        "differ between CPU and device, and the largest difference of a logit. bfloat16: the cosine of the last logits "
        f"under flash attention and sdpa (near: above {part['near']:g}), `*` where other numbers of tokens stayed."
    )
    if part["not_run"]:
        yield f"No time was left for {part['not_run']} of them."
    yield ""
    yield from grid(["family", "method", "differing", "logits", *_forms(part["rows"])], list(map(_cells, part["rows"])))
    reasons = {
        seen["left_out"] for row in part["rows"] for seen in row.get("flash", {}).values() if "left_out" in seen
    } | {row["refused"] for row in part["rows"] if "refused" in row}
    yield ""
    yield from (f"- {reason}" for reason in sorted(reasons))


def _forms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(next((row["flash"] for row in rows if "flash" in row), {}))


def _cells(row: Mapping[str, Any]) -> list[str]:
    place = [row["family"], row["method"]]
    if "flash" not in row:
        return [*place, "refused" if "refused" in row else "failed"]
    shown = [
        f"{seen['cosine']:.3f}{'' if seen['same_counts'] else '*'}" if "cosine" in seen else "-"
        for seen in row["flash"].values()
    ]
    return [*place, f"{row['differing']} of {row['kept']}", f"{row['logits']:.1e}", *shown]
