"""The sentences below a table: what a reader must know to use its numbers, each derived from the cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from clasp.report.categories import RIGHT, hard_questions
from clasp.report.layout import DAGGERS, TIMING_MARK, benchmark_label, hard_heading, method_label
from clasp.report.statistics import LEVEL, RESAMPLES, SWAPS
from clasp.report.table_rows import APART_H, RANDOM, SIGNIFICANT, Key, Standing, Summary, TableRow

TOLERANCE = 1.0
"""A row holds its budget if its output average differs from it by at most this many tokens."""
ASSUMED = "Assumed, for the papers do not state it or the backbone lacks it"
"""Heading of what :func:`assumptions` lists."""


def caption(summary: Summary) -> list[str]:
    """The notes below a table, one or two sentences each."""
    missing, planned, frame = len(summary.experiment.missing), len(summary.experiment.planned), summary.experiment.frame
    notes = [
        f"Backbone {summary.backbone}. {_questions(summary)}",
        *_protocols(summary),
        _held_equal(summary),
        "average (kept) = mean over benchmarks of score / unpruned score, in percent. In brackets: "
        f"{LEVEL:.0%} percentile bootstrap interval, {RESAMPLES} resamples of the questions within each benchmark, the "
        "same questions for all rows; ± is half of such an interval's width (bounds in the CSV), and stands where the "
        "score follows from the answers one by one.",
        _hard(summary),
        _compared(summary),
        "Within a budget: best in bold, second best underlined, by the numbers as shown. An empty entry has no value: "
        "a cell that it needs has not been run, or it is undefined.",
        "TFLOPs (GFLOPs) = 1e12 (1e9) multiply-adds of the decoder's prefill per question, gated feed-forward formula; "
        "FLOPs ratio = unpruned / own FLOPs. KV MiB (measured) and prefill ms (measured) are means per question. "
        "prefill speed-up = unpruned / own prefill ms, shown where device and batch size are the same.",
        f"Hardware: {', '.join(frame['device'].unique())}; batch size "
        f"{', '.join(map(str, sorted(frame['batch_size'].unique())))}.",
        timing_note(summary.rows) if summary.experiment.spec.table != "categories" else "",
        below_random(summary),
        f"No pruned row has an average: {reason}." if summary.pruned and (reason := no_average(summary)) else "",
        f"INCOMPLETE: {missing} of {planned} planned cells have not been run." if missing else "",
        f"Code version of the cells: {', '.join(frame['commit'].unique())}.",
    ]
    return [note for note in notes if note]


def no_average(summary: Summary) -> str:
    """Why no pruned row has a normalized average, and what to do about it; empty where one has."""
    if any(row.average.value is not None for row in summary.pruned):
        return ""
    base = summary.unpruned
    if not summary.pruned:
        return "the experiment has no pruned row; add a method that prunes"
    if base is None:
        return "the experiment has no unpruned row; add the method none"
    unscored = [benchmark_label(name) for name, score in base.scores.items() if score is None]
    if unscored:
        return f"the unpruned model has no score on {', '.join(unscored)}; run its missing cells, or judge its answers"
    zero = [benchmark_label(name) for name, score in base.scores.items() if score == 0]
    if zero:
        return f"the unpruned score on {', '.join(zero)} is 0, which has no ratio; ask more questions (LIMIT=...)"
    return "every pruned row lacks a score; run their missing cells, or judge their answers"


def _hard(summary: Summary) -> str:
    counts = {key[1]: entry.questions for key, entry in hard_questions(summary).items()}
    if not counts:
        return ""
    asked = ", ".join(f"{count} at {tokens}" for tokens, count in counts.items())
    return (
        f"{hard_heading(summary)} = mean score on the questions that the unpruned model has right and that row has "
        f"wrong at the same budget, of all benchmarks together (protocol of VTC-Bench, arXiv 2510.07143; right is a "
        f"score of at least {RIGHT:g}): {asked} visual tokens."
    )


def assumptions(summary: Summary) -> list[str]:
    """Assumptions where a paper states nothing, and substitutes for what the backbone lacks.

    Each sentence comes once, after the names of the methods that share it.
    """
    sharing: dict[str, dict[str, None]] = {}
    for cell in summary.experiment.frame.itertuples():
        for text in cell.assumptions:
            sharing.setdefault(text.removeprefix(f"{cell.method}: "), {})[method_label(cell.method)] = None
    lines: dict[tuple[str, ...], list[str]] = {}
    for text, methods in sharing.items():
        for method in methods:  # the line begins with their names
            text = text.removeprefix(f"{method}'s ")
        if len(text.partition(" ")[0]) > 1:  # a symbol in front stays as it is
            text = text[:1].upper() + text[1:]
        lines.setdefault(tuple(methods), []).append(f"{text}.")
    return [f"{', '.join(methods)}: {' '.join(sentences)}" for methods, sentences in lines.items()]


def below_random(summary: Summary) -> str:
    """Lists the rows below random, apart from those that the paired test finds significant; empty without random."""
    if not any(row.name == RANDOM for row in summary.rows):
        return ""
    meanings: dict[Standing, str] = {"below": "not tested against random here"}
    if any(row.comparison is not None and row.comparison.reference == RANDOM for row in summary.rows):
        meanings = {
            "below": "no significant difference by the paired test",
            "significant": f"significant (corrected p < {SIGNIFICANT})",
        }
    parts = []
    for standing, meaning in meanings.items():
        rows = [key for key, value in summary.standings.items() if value == standing]
        parts.append(f"{DAGGERS[standing]} {meaning}: {_by_budget(rows) or 'none'}")
    return f"Below random at the same budget by their average: {'. '.join(parts)}."


def timing_note(rows: Iterable[TableRow]) -> str:
    """Lists the rows whose speed-ups divide times of different sessions, and the remedy; empty where there are none."""
    hours = {row.key: row.hours_apart for row in rows if row.timed_apart}
    if not hours:
        return ""
    return (
        f"{TIMING_MARK} speed-ups that need not compare, for the speed of a machine drifts: cells were computed more "
        f"than {APART_H:g} hours before or after the unpruned model's ({_by_budget(hours)}; up to "
        f"{max(hours.values()):.1f} hours). All cells computed in one go, into a results folder of their own "
        "(paths.results=...), compare."
    )


def _by_budget(keys: Collection[Key]) -> str:
    by_budget: dict[int, list[str]] = {}
    for name, tokens in keys:
        by_budget.setdefault(tokens, []).append(method_label(name))
    return "; ".join(f"at {tokens} {', '.join(labels)}" for tokens, labels in by_budget.items())


def _compared(summary: Summary) -> str:
    reference = summary.experiment.spec.reference
    tested = [row.comparison for row in summary.rows if row.comparison is not None]
    if reference is None or not tested:
        return ""
    return (
        f"less {method_label(reference)} = average less that of {method_label(reference)} at the same budget, in "
        f"points, with its paired interval, and p of a paired permutation test ({SWAPS} swaps of the two rows' "
        f"answers, question by question), corrected by Holm's rule for the {len(tested)} comparisons of this table. "
        f"What has no p below {SIGNIFICANT} is not called better or worse."
    )


def _protocols(summary: Summary) -> list[str]:
    known = [
        f"{benchmark_label(column['name'])}: {', '.join(filter(None, (column.get('metric'), protocol)))}"
        for column in summary.experiment.columns
        if (protocol := column.get("protocol"))
    ]
    judges = list(summary.experiment.frame["judge_model"].dropna().unique())
    return [
        f"Protocols: {'; '.join(known)}." if known else "",
        f"Judged by {', '.join(judges)}." if judges else "",
    ]


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
        (abs(average - row.tokens), f"{method_label(row.name)} at {row.tokens}: {average:.1f}")
        for row in summary.pruned
        if (average := row.costs["output_average"]) is not None
    ]
    text = (
        "Held equal within a budget: the output average of visual tokens "
        "(mean over decoder layers of those leaving a layer)"
    )
    off = [label for gap, label in gaps if gap > TOLERANCE]
    if off:
        return f"{text}; NOT held by {'; '.join(off)}."
    return f"{text}; largest deviation measured: {max(gap for gap, _ in gaps):.2f} tokens." if gaps else f"{text}."
