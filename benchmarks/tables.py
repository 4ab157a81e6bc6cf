"""Markdown tables of the measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.growth import LONGEST_S, PAST
from benchmarks.methods import quartiles
from benchmarks.ops import PRODUCT, WITHIN

STEADY = 1.1
"""Maximum ratio of upper to lower quartile of the reference product's times on a machine that counts as steady."""
QUADRATIC = 1.5
"""Minimum exponent of the token count for growth to count as quadratic: halfway between linear and quadratic."""
LISTED = 6
"""Number of operators shown per part of a profile, slowest first."""


def steadiness(reference_ms: Sequence[float]) -> str:
    """Times of the reference product between runs, and whether this machine's times are reliable."""
    low, high = quartiles(reference_ms)
    text = f"Between runs one and the same product took {median(reference_ms):.1f} ms [quartiles {low:.1f}, {high:.1f}]"
    if high <= STEADY * low:
        return f"{text}."
    return f"{text}: not steady, something else works on this machine; times below differ by as much."


def mib(count: float | None) -> str:
    """Bytes as MiB."""
    return "-" if count is None else f"{count / 2**20:.1f}"


def methods_table(found: Mapping[str, Any]) -> str:
    """Markdown: one table per batch size."""
    newlines = f" ({found['newlines']} of them newlines)" if found["newlines"] else ""
    waits = any(row["waits"] for rows in found["batches"].values() for row in rows)
    lines = [
        f"{found['geometry']}: {found['visual_tokens']} visual{newlines} and {found['text_tokens']} text tokens a "
        f"prompt of one {found['shown']}, {found['tokens']} visual tokens kept (output average), {found['dtype']}, "
        f"{found['device']}, {found['repeats']} interleaved repeats, medians.",
        "Times in ms for the whole batch; prefill holds router, fusion and selection. End to end is one `generate` as "
        f"POPE asks: one {found['shown']}, a short question, an answer of one word and the end token, so ViT, prefill "
        "and one decoding step.",
        f"Peak: the most that tensors held at once beside the weights ({mib(found['weight_bytes'])} MiB), in a run of "
        "its own.",
        "FLOPs-ideal: the speed-up if time were multiply-adds. Plain layers: what the plain decoder reaches at the "
        "lengths of the method's schedule, without router, fusion, selection or engine.",
    ]
    if any(row["name"].endswith(" tokens") for rows in found["batches"].values() for row in rows):
        lines.append(
            f"Rows that name a number of tokens: a first stage too late for {found['tokens']}; compare these methods "
            "with others by share, not by speed-up."
        )
    lines += [f"Left out: {name}, because {reason}." for name, reason in found["left_out"].items()]
    lines.append(steadiness(found["pulse_ms"]))
    for batch, rows in found["batches"].items():
        lines += ["", f"Batch {batch}", "", *grid(method_columns(waits), [method_cells(row, waits) for row in rows])]
    return "\n".join(lines) + "\n"


def method_columns(waits: bool) -> list[str]:
    """Column heads for :func:`method_cells`."""
    columns = ["method", "ViT", "router", "fusion", "selection", "by stage", "prefill", "[quartiles]", "decode a token"]
    columns += ["end to end", "KV, MiB", "peak, MiB", "prefill speed-up", "FLOPs-ideal", "share of ideal"]
    columns += ["plain layers", "share of plain"]
    return [*columns, "end-to-end speed-up", *(["waits for the GPU by stage"] if waits else [])]


def method_cells(row: Mapping[str, Any], waits: bool) -> list[str]:
    """One row of the measurements."""
    ms, (low, high) = row["ms"], row["quartiles_ms"]["prefill"]
    times = [f"{ms[part]:.1f}" for part in ("vision", "router", "fusion", "selection")]
    times += [" + ".join(f"{stage:.1f}" for stage in row["stages_ms"]) or "-", f"{ms['prefill']:.1f}"]
    times += [f"[{low:.1f}, {high:.1f}]", f"{ms['decode']:.1f}", f"{ms['total']:.1f}"]
    names = ("prefill_speedup", "ideal_speedup", "share_of_ideal", "plain_speedup", "share_of_plain", "total_speedup")
    ratios = [f"{row[name]:.2f}" for name in names]
    waited = [", ".join(map(str, row["waits"])) or "-"] if waits else []
    return [row["name"], *times, mib(row["kv_bytes"]), mib(row["peak_bytes"]), *ratios, *waited]


def ops_table(found: Mapping[str, Any]) -> str:
    """Markdown: one table per size."""
    lines = [
        f"Selection ops on one row of n tokens of width {found['width']} ({found['geometry']}), float32, "
        f"{found['device']}, {found['repeats']} interleaved repeats, medians.",
        f"Ratio: to one {PRODUCT} of that width in the same run; the aim is {WITHIN:g} at most. An op that compares "
        "all pairs includes their cosines. Peak: beyond the inputs.",
    ]
    columns = ["op", "ms", "ratio", f"within {WITHIN:g}", "peak, MiB"]
    for size, rows in found["sizes"].items():
        cells = [
            [row["name"], f"{row['ms']:.2f}", f"{row['ratio']:.2f}", _yes(row["within"]), mib(row["peak_bytes"])]
            for row in rows
        ]
        lines += ["", f"{size} tokens", "", *grid(columns, cells)]
    lines += [
        "",
        "Against twins of what official code does, written from its behaviour, alternately in the same run; ratio: how "
        "many times as long the twin takes.",
    ]
    for size, rows in found["twins"].items():
        cells = [[row["name"], f"{row['official_ms']:.3f}", f"{row['ms']:.3f}", f"{row['ratio']:.2f}"] for row in rows]
        lines += ["", f"{size} tokens", "", *grid(["rule", "official, ms", "ours, ms", "ratio"], cells)]
    return "\n".join(lines) + "\n"


def growth_table(found: Mapping[str, Any]) -> str:
    """Markdown: ops by size in seconds and in MiB, and whole prefills."""
    names = [str(size) for size in found["sizes"]]
    lines = [
        f"Growth with the visual tokens ({found['geometry']} with {found['layers']} decoder layers of width "
        f"{found['width']}, images of {found['image_tokens']} visual tokens one behind the other, "
        f"{found['text_tokens']} text tokens, {found['tokens']} visual tokens of each image kept, output average), "
        f"{found['dtype']}, {found['device']}; ops in float32; medians of up to {found['repeats']} repeats.",
        f"`-`: one call would take more than {LONGEST_S:g} s. Peak memory is beyond an op's inputs, and beside the "
        "weights of a prefill. The kept tokens are a fixed share, so memory of kept x tokens (`dpp_map`) or groups x "
        "tokens (`principal_groups`, at most width x tokens) counts as quadratic here.",
    ]
    lines += [f"Left out: {name}, because {reason}." for name, reason in found["left_out"].items()]
    seconds = [[op["name"], *(_s(value) for value in op["seconds"])] for op in found["ops"]]
    lines += ["", "Selection ops, seconds", "", *grid(["op", *names], seconds)]
    memory = [[op["name"], *map(mib, op["peak_bytes"]), *_order(op["memory_exponent"])] for op in found["ops"]]
    columns = ["op", *names, f"exponent past {PAST}", "quadratic"]
    lines += ["", "Selection ops, peak memory in MiB", "", *grid(columns, memory)]
    columns = ["method", "visual tokens", "prefill, s", "selection, s", "of its own prefill", "of the unpruned prefill"]
    rows = [
        [run["name"], name, _s(run["prefill_s"][i]), _s(run["selection_s"][i])]
        + [f"{100 * run[share][i]:.1f} %" for share in ("of_own", "of_unpruned")]
        + [mib(run["peak_bytes"][i])]
        for i, name in enumerate(names)
        for run in found["prefills"]
    ]
    lines += ["", "Whole prefills", "", *grid([*columns, "peak, MiB"], rows)]
    return "\n".join(lines) + "\n"


def profile_table(found: Mapping[str, Any]) -> str:
    """Markdown: one table per batch size and method."""
    lines = [
        f"Operators by part ({found['geometry']}, {found['visual_tokens']} visual and {found['text_tokens']} text "
        f"tokens, {found['tokens']} visual tokens kept), {found['dtype']}, {found['device']}; one run after one that "
        f"warms up; watching makes it slower. An operator's ms are its own; the {LISTED} longest of each part.",
    ]
    lines += [f"Left out: {name}, because {reason}." for name, reason in found["left_out"].items()]
    for run in found["profiles"]:
        lines += ["", f"{run['name']}, batch {run['batch']}", ""]
        cells = []
        for part in run["parts"]:
            longest = part["operators"][:LISTED]
            shown = ", ".join(f"{one['name']} {one['ms']:.1f} ({one['calls']})" for one in longest)
            cells.append([part["part"], f"{part['ms']:.1f}", str(sum(o["calls"] for o in part["operators"])), shown])
        lines += grid(["part", "ms", "calls", "operators: ms (calls)"], cells)
    return "\n".join(lines) + "\n"


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table's lines."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.4f}" if seconds < 1 else f"{seconds:.2f}"


def _order(exponent: float | None) -> tuple[str, str]:
    return ("-", "-") if exponent is None else (f"{exponent:.2f}", _yes(exponent >= QUADRATIC))
