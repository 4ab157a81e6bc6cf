"""What a benchmark says: ratios to the unpruned model and to the FLOPs-ideal, as JSON values and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from clasp.bench.measure import PARTS, Contender, Times
from clasp.budget import Geometry
from clasp.cost import prefill_flops

UNPRUNED = "unpruned"
MILLI = 1e3


def ideal(geometry: Geometry, contender: Contender, text_tokens: int) -> float:
    """Prefill speed-up if time were multiply-adds: unpruned decoder layers over those of the method's schedule."""
    full = (geometry.visual_tokens,) * geometry.layers
    method = contender.method
    entering = full if method is None or not method.prunes else method.check(geometry).entering()
    return prefill_flops(geometry, full, text_tokens) / prefill_flops(geometry, entering, text_tokens)


def record(
    contenders: Sequence[Contender], times: Mapping[str, Times], geometry: Geometry, text_tokens: int
) -> list[dict[str, Any]]:
    """One entry a contender: medians and quartiles in ms, bytes, and the ratios; speed-ups are of the prefill."""
    base = times[UNPRUNED]
    rows = []
    for contender in contenders:
        own = times[contender.name]
        speedup, best = base.median("prefill") / own.median("prefill"), ideal(geometry, contender, text_tokens)
        stages = [median(column) * MILLI for column in zip(*own.stages, strict=True)]
        rows.append(
            {
                "name": contender.name,
                "ms": {part: own.median(part) * MILLI for part in PARTS},
                "quartiles_ms": {part: _quartiles(own.parts[part]) for part in PARTS},
                "stages_ms": stages,
                "kv_bytes": own.kv_bytes,
                "peak_bytes": own.peak_bytes,
                "prefill_speedup": speedup,
                "ideal_speedup": best,
                "share_of_ideal": speedup / best,
                "total_speedup": base.median("total") / own.median("total"),
            }
        )
    return rows


def _quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile in ms."""
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (seconds[0],) * 3
    return low * MILLI, high * MILLI


def table(found: Mapping[str, Any]) -> str:
    """Markdown: one table a batch size."""
    head = (
        f"{found['geometry']}: {found['visual_tokens']} visual and {found['text_tokens']} text tokens a prompt, "
        f"{found['tokens']} visual tokens kept (output average), {found['dtype']}, {found['device']}, "
        f"{found['repeats']} interleaved repeats, medians"
    )
    columns = ["method", "ViT", "router", "fusion", "selection", "prefill", "[quartiles]", "decode a token", "generate"]
    columns += ["KV, MiB", "prefill speed-up", "FLOPs-ideal", "share of ideal", "generate speed-up"]
    lines = [head, "Times in ms for the whole batch; prefill holds router, fusion and selection."]
    for batch, rows in found["batches"].items():
        lines += ["", f"Batch {batch}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    ms, (low, high) = row["ms"], row["quartiles_ms"]["prefill"]
    times = [f"{ms[part]:.1f}" for part in ("vision", "router", "fusion", "selection", "prefill")]
    times += [f"[{low:.1f}, {high:.1f}]", f"{ms['decode']:.1f}", f"{ms['total']:.1f}"]
    ratios = [f"{row[name]:.2f}" for name in ("prefill_speedup", "ideal_speedup", "share_of_ideal", "total_speedup")]
    return [row["name"], *times, f"{row['kv_bytes'] / 2**20:.1f}", *ratios]
