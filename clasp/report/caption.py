"""What a reader must know to use a table's numbers: the sentences below it, each derived from the cells."""

from __future__ import annotations

from clasp.report.cells import UNPRUNED
from clasp.report.layout import benchmark_label, method_label
from clasp.report.statistics import LEVEL, RESAMPLES
from clasp.report.summary import Summary

TOLERANCE = 1.0
"""Tokens by which a row's output average may miss its budget and still count as holding it."""


def caption(summary: Summary) -> list[str]:
    """The notes below a table, one or two sentences each."""
    frame = summary.experiment.frame
    notes = [
        f"Backbone {frame['backbone'].iloc[0]}. {_questions(summary)}",
        _held_equal(summary),
        "average = mean over benchmarks of score / unpruned score, in percent; world average = the same over the "
        f"picture world's benchmarks alone. In brackets: {LEVEL:.0%} percentile bootstrap interval, {RESAMPLES} "
        "resamples of the questions within each benchmark, the same questions for the pruned and the unpruned model.",
        "Within a budget: best in bold, second best underlined, by the numbers as shown. An empty entry has no value: "
        "a cell that it needs has not been run, or it is undefined.",
        "TFLOPs (GFLOPs) = 1e12 (1e9) multiply-adds of the decoder's prefill per question, gated feed-forward formula; "
        "FLOPs ratio = unpruned / own FLOPs. KV MiB (measured) and prefill ms (measured) are means per question. "
        "prefill speed-up = unpruned / own prefill ms, shown where device and batch size are the same.",
        _hardware(summary),
    ]
    version = f"Code version of the cells: {', '.join(dict.fromkeys(frame['commit']))}."
    return [*notes, *_missing(summary), *_assumptions(summary), version]


def _questions(summary: Summary) -> str:
    frame = summary.experiment.frame
    parts = []
    for benchmark in summary.benchmarks:
        cells = frame[frame["benchmark"] == benchmark]
        counts = [f"{row.questions} of {row.available}" for row in cells.itertuples()]
        parts.append(f"{benchmark_label(benchmark)} {' / '.join(dict.fromkeys(counts)) or 'not run'}")
    metrics = ", ".join(dict.fromkeys(frame["metric"]))
    return f"Questions per benchmark: {', '.join(parts)}. Metric: {metrics}; fractions are shown in percent."


def _held_equal(summary: Summary) -> str:
    gaps = [
        (abs(average - row.tokens), f"{method_label(row.method)} at {row.tokens}: {average:.1f}")
        for row in summary.rows
        if row.method != UNPRUNED and (average := row.costs["output_average"]) is not None
    ]
    text = (
        "Held equal within a budget: the output average of visual tokens "
        "(mean over decoder layers of those leaving a layer)"
    )
    off = [label for gap, label in gaps if gap > TOLERANCE]
    if off:
        return f"{text}; NOT held by {'; '.join(off)}."
    return f"{text}; largest deviation measured: {max(gap for gap, _ in gaps):.2f} tokens." if gaps else f"{text}."


def _hardware(summary: Summary) -> str:
    frame = summary.experiment.frame
    devices = ", ".join(dict.fromkeys(frame["device"]))
    sizes = ", ".join(str(size) for size in sorted(set(frame["batch_size"])))
    return f"Hardware: {devices}; batch size {sizes}."


def _missing(summary: Summary) -> list[str]:
    missing = len(summary.experiment.missing)
    planned = missing + len(summary.experiment.frame)
    return [f"INCOMPLETE: {missing} of {planned} planned cells have not been run."] if missing else []


def _assumptions(summary: Summary) -> list[str]:
    found = dict.fromkeys(text for texts in summary.experiment.frame["assumptions"] for text in texts)
    return [f"Assumptions (not stated by the papers): {'; '.join(found)}."] if found else []
