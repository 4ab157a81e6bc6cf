"""What a reader must know to use a table's numbers: the sentences below it, each derived from the cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clasp.report.cells import UNPRUNED
from clasp.report.layout import DAGGERS, benchmark_label, method_label
from clasp.report.statistics import LEVEL, RESAMPLES
from clasp.report.summary import RANDOM, Average, Standing, Summary, standings

TOLERANCE = 1.0
"""Tokens by which a row's output average may miss its budget and still count as holding it."""
ASSUMED = "Assumed, for the papers do not state it or the backbone lacks it"
"""What :func:`assumptions` lists."""


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
    return [*notes, *_below_random(summary), *_missing(summary), version]


def assumptions(summary: Summary) -> list[str]:
    """What the papers do not state and what stands in for what the backbone lacks: each sentence once, led by the
    methods that share it."""
    sharing: dict[str, dict[str, None]] = {}
    for row in summary.experiment.frame.itertuples():
        for text in row.assumptions:
            sharing.setdefault(text.removeprefix(f"{row.method}: "), {})[method_label(row.method)] = None
    lines: dict[tuple[str, ...], list[str]] = {}
    for text, methods in sharing.items():
        lines.setdefault(tuple(methods), []).append(_sentence(text, methods))
    return [f"{', '.join(methods)}: {' '.join(sentences)}" for methods, sentences in lines.items()]


def _sentence(text: str, methods: Iterable[str]) -> str:
    """``text`` without a method's name that the line begins with, as a sentence; a symbol in front stays as it is."""
    for method in methods:
        text = text.removeprefix(f"{method}'s ")
    word = text.partition(" ")[0]
    return f"{text[:1].upper() if len(word) > 1 else text[:1]}{text[1:]}."


def below_random(averages: Mapping[tuple[str, int], Average]) -> str:
    """Which rows are below random, and whether the intervals are apart; empty without a row of random's."""
    if not any(method == RANDOM for method, _ in averages):
        return ""
    found = standings(averages)
    budgets = dict.fromkeys(tokens for _, tokens in averages)
    meanings: dict[Standing, str] = {"below": "95 % intervals not apart", "apart": "95 % intervals apart"}
    parts = []
    for standing, meaning in meanings.items():
        rows = [key for key, value in found.items() if value == standing]
        at = [
            f"at {tokens} {', '.join(names)}"
            for tokens in budgets
            if (names := [method_label(method) for method, budget in rows if budget == tokens])
        ]
        parts.append(f"{DAGGERS[standing]} {meaning}: {'; '.join(at) or 'none'}")
    return (
        f"Below random at the same budget by their average: {'. '.join(parts)}. The questions are the same for all "
        "methods, so intervals that overlap do not say that two are equal."
    )


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


def _below_random(summary: Summary) -> list[str]:
    text = below_random({(row.method, row.tokens): row.average for row in summary.rows})
    return [text] if text else []
