"""Our own measured results, kept in git: tables and figures of experiments, and the copies that pages show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from clasp.files import write_atomically
from clasp.methods import METHODS as REGISTRY
from clasp.methods import for_images
from clasp.report.caption import below_random, timing_note
from clasp.report.layout import Shown, average, benchmark_label, marked_label, method_label, pipe_table, speedup
from clasp.report.load import UNPRUNED, Experiment, ReportError, load_experiment
from clasp.report.summarize import summarize, tests_against
from clasp.report.table_rows import Comparison, Key, Standing, Summary, TableRow

TRAINING = "tiny_training.json"
MAIN, METHODS, FIDELITY = "tiny_main", "table_llava15_tiny", "fidelity_tiny"
FOLDERS = ("cells", "experiments", "tables", "figures", "retention")
OTHERS = (
    "report.html",
    "router.json",
    "tables/router.md",
    "tables/*_agreement.*",
    "retention/*.json",
    "figures/retention_*",
)
"""Files of no experiment, which are copied where they exist."""
COMMANDS = {MAIN: "make tables", METHODS: "make table-llava15", FIDELITY: "make fidelity"}
"""Experiment -> the command that computes it and builds its table."""
PAGES = {
    "main table": "README.md",
    "methods table": "docs/results.md",
    "recent table": "docs/methods-2026.md",
    "tiny table": "docs/tiny-backbone.md",
    "fidelity table": "README.md",
}
"""Measured block -> the page that shows it, relative to the repository."""
RECENT = "2504"
"""arXiv number from which a method is a recent one: April 2025."""
HEAD = "{} tokens, % [95 %]"
"""Heading of the averages at a budget."""
UNREACHABLE = "–"
"""Instead of an average where the method cannot keep so few tokens on this backbone."""
SIGNS = {"better": "+", "no significant difference": "=", "worse": "−"}


def publish(results: Path, root: Path) -> list[Path]:
    """Copies every experiment's cells, tables and figures to ``<results>/reference`` and renews the blocks of the pages
    below ``root``; returns the folder and the pages.

    Only files of experiments and :data:`OTHERS` are copied, and files of an earlier call are removed: the folder is a
    results root from which the same tables can be built.

    Raises:
        ReportError: the tables that pages show have not been built, a table or figure or the small model's scores are
            missing, or a page lacks a block's markers.
    """
    reference = results / "reference"
    for experiment, command in COMMANDS.items():
        if not (results / "experiments" / f"{experiment}.json").is_file():
            raise ReportError(f"experiment {experiment!r} has not been run; run '{command}' first")
    experiments = [load_experiment(path.stem, results) for path in sorted((results / "experiments").glob("*.json"))]
    sources = [path for experiment in experiments for path in _files(experiment)]
    missing = [path for path in sources if not path.is_file()]
    if missing:
        raise ReportError(f"{missing[0]} has not been built; run 'make report' first, which says what it cannot draw")
    _accuracy(reference / TRAINING)
    for folder in FOLDERS:
        shutil.rmtree(reference / folder, ignore_errors=True)
    others = [path for pattern in OTHERS for path in sorted(results.glob(pattern))]
    for source in dict.fromkeys([*sources, *others]):
        target = reference / source.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    pages = renewed(root, reference)
    return [reference, *(write_atomically(page, text.encode()) for page, text in pages.items())]


def _files(experiment: Experiment) -> list[Path]:
    results = experiment.results
    signatures = set(experiment.frame["signature"])
    cells = [results / "cells" / f"{cell}.{kind}" for cell in sorted(signatures) for kind in ("json", "jsonl")]
    verdicts = [path for path in (results / "cells").glob("*.judge.json") if path.name.split(".")[0] in signatures]
    plan = results / "experiments" / f"{experiment.name}.json"
    return [plan, *cells, *verdicts, *experiment.tables.values(), *experiment.figures]


def renewed(root: Path, reference: Path) -> dict[Path, str]:
    """The pages below ``root`` with their measured blocks as they follow from ``reference``."""
    methods = summarize(load_experiment(METHODS, reference))
    blocks = {
        "main table": main_block(summarize(load_experiment(MAIN, reference))),
        "methods table": methods_block(methods),
        "recent table": recent_block(methods),
        "tiny table": tiny_block(reference / TRAINING),
        "fidelity table": fidelity_block(reference / "tables" / f"{FIDELITY}_agreement.csv"),
    }
    pages: dict[Path, str] = {}
    for name, block in blocks.items():
        page = root / PAGES[name]
        text = pages.get(page) or page.read_text(encoding="utf-8")
        pages[page] = _replaced(text, page, name, block)
    return pages


def main_block(summary: Summary) -> str:
    """A short table of the main experiment: averages, visual tokens, FLOPs ratio and measured prefill speed-up."""
    heads, lines = ["visual tokens", "method", "average, % [95 %]", "FLOPs ratio", "prefill speed-up"], []
    for row in summary.rows:
        tokens = f"all {row.tokens}" if row.method == UNPRUNED else str(row.tokens)
        label = marked_label(row.name, summary.standings.get(row.key))
        flops = "" if row.flops_ratio is None else f"{row.flops_ratio:.2f}"
        lines.append([tokens, label, _text(average(row)), flops, _text(speedup(row))])
    return _block(heads, lines, _notes(summary, summary.rows))


def methods_block(summary: Summary) -> str:
    """Every method's average at every budget, and its measured prefill speed-up at the smallest."""
    rows = {row.key: row for row in summary.pruned}
    budgets = list(dict.fromkeys(tokens for _, tokens in rows))
    smallest, lines = min(budgets), []
    for name in dict.fromkeys(name for name, _ in rows):
        last = rows.get((name, smallest))
        averages = _averages(rows, name, budgets, summary.standings)
        lines.append([method_label(name), *averages, _text(speedup(last)) if last else UNREACHABLE])
    heads = ["method", *map(HEAD.format, budgets), f"prefill speed-up at {smallest}"]
    timed = [row for row in summary.pruned if row.tokens == smallest]
    return _block(heads, lines, _notes(summary, timed, "../"))


def recent_block(summary: Summary) -> str:
    """Averages of the recent methods and the baselines, and whether each differs significantly from each baseline."""
    rows = {row.key: row for row in summary.pruned if row.method in REGISTRY}
    papers = {name: REGISTRY[row.method].paper for (name, _), row in rows.items()}
    budgets = list(dict.fromkeys(tokens for _, tokens in rows))
    names = sorted((name for name, paper in papers.items() if paper >= RECENT or not paper), key=papers.__getitem__)
    baselines = [name for name in names if not papers[name]]
    experiment = summary.experiment
    planned = tuple(cell for cell in experiment.planned if cell.row in names or cell.method == UNPRUNED)
    frame = experiment.frame[experiment.frame["row"].isin({cell.row for cell in planned})]
    tested = tests_against(replace(experiment, planned=planned, frame=frame), baselines)
    lines = []
    for name in names:
        signs = [_signs([tested[base].get((name, tokens)) for tokens in budgets]) for base in baselines]
        lines.append([method_label(name), *_averages(rows, name, budgets, {}), *signs])
    heads = ["method", *map(HEAD.format, budgets), *(f"than {method_label(name)}" for name in baselines)]
    missing = [REGISTRY[name].label for name in for_images() if REGISTRY[name].paper >= RECENT and name not in papers]
    notes = [
        f"Normalized averages by `{COMMANDS[experiment.name]}`. Better (+), no significant difference (=) or "
        f"worse ({SIGNS['worse']}) at {', '.join(map(str, budgets))} tokens by a paired permutation test, "
        "corrected for the number of tests in its column.",
        f"Not yet in the stored results: {', '.join(missing)}." if missing else "",
    ]
    return _block(heads, lines, notes)


def _averages(
    rows: Mapping[Key, TableRow], name: str, budgets: Sequence[int], standings: Mapping[Key, Standing]
) -> list[str]:
    """A row's averages at every budget, marked where they are below random by ``standings``."""
    found = [rows.get((name, tokens)) for tokens in budgets]
    return [_text(average(row)) + marked_label("", standings.get(row.key)) if row else UNREACHABLE for row in found]


def _signs(found: Sequence[Comparison | None]) -> str:
    return " ".join("·" if one is None else SIGNS[one.verdict] for one in found) if any(found) else ""


def tiny_block(path: Path) -> str:
    """Scores of the shipped backbone on test data: unpruned, with a gray image, and of what some methods keep."""
    accuracy = _accuracy(path)
    columns = list(next(iter(accuracy.values())))
    names = {"all": "all 576 tokens", "blank": "gray image"}
    heads = ["score, % (MME: points)", *(names.get(name, name.replace("_", " ")) for name in columns)]
    lines = [
        [benchmark_label(benchmark), *(f"{values[name]:.1f}" if name in values else "" for name in columns)]
        for benchmark, values in accuracy.items()
    ]
    return "\n".join(pipe_table(heads, lines))


def _accuracy(path: Path) -> dict[str, dict[str, float]]:
    log: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text(encoding="utf-8"))
    if "accuracy" not in log:
        command = f"python scripts/score_tiny.py split=test log={path}"
        raise ReportError(f"{path} has no scores of the trained weights; run '{command}' first")
    return log["accuracy"]


def fidelity_block(path: Path) -> str:
    """Agreement with published results by budget: of all methods, those looked at, those held out."""
    frame = pd.read_csv(path, dtype={"over": str})
    frame = frame[frame["over"].str.isdigit() | (frame["over"] == "pooled")]
    shown = [
        f"{one.spearman:.2f} [{one.methods_low:.2f}, {one.methods_high:.2f}]; {one.apart:.1f} apart; n = {one.points}"
        for one in frame.itertuples()
    ]
    table = frame.assign(shown=shown).pivot_table("shown", "methods", "over", "first", sort=False).fillna("")
    heads = ["methods", *("all budgets" if over == "pooled" else f"{over} tokens" for over in table.columns)]
    return "\n".join(pipe_table(heads, table.reset_index().astype(str).to_numpy().tolist()))


def _block(heads: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    return "\n".join([*pipe_table(heads, lines), "", *(note for note in notes if note)])


def _notes(summary: Summary, timed: Iterable[TableRow], up: str = "") -> list[str]:
    """The lines below a table that shows the speed-ups of ``timed``; ``up``: path from its page to the repository."""
    name, device = summary.experiment.name, summary.experiment.frame["device"].iloc[0]
    measured = (
        f"Measured by `{COMMANDS[name]}` on {device}; visual tokens are output averages. Scores "
        f"per benchmark, costs and the fine print: [`{name}.md`]({up}results/reference/tables/{name}.md)."
    )
    return [measured, below_random(summary), timing_note(timed)]


def _text(entry: Shown) -> str:
    return entry.text + entry.tail


def _replaced(text: str, page: Path, name: str, block: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ReportError(f"{page} needs the markers '{begin}' and '{end}', once each")
    return text[: text.index(begin) + len(begin)] + f"\n\n{block}\n\n" + text[text.index(end) :]
