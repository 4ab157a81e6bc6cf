"""The table of an experiment: Markdown to read, CSV to compute with, LaTeX (booktabs) to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clasp.files import write_atomically
from clasp.report.caption import ASSUMED, assumptions, caption
from clasp.report.categories import hard_questions
from clasp.report.layout import RowGroup, Shown, body, header, title
from clasp.report.statistics import Interval
from clasp.report.table_rows import Summary, TableRow


@dataclass(frozen=True)
class Sheet:
    """A table ready to be written, whatever the format."""

    title: str
    name: str  # of its files and its LaTeX label
    heads: Sequence[str]
    groups: Sequence[RowGroup]
    notes: Sequence[str]  # sentences below it
    assumed: Sequence[str] = ()  # assumptions on which the numbers depend
    left: int = 1  # the first so many columns hold text and are aligned to the left


def write_table(summary: Summary, folder: Path) -> dict[str, Path]:
    """Writes ``<experiment>.md``, ``.csv`` and ``.tex`` into ``folder``; returns suffix -> path."""
    return write_sheet(sheet(summary), comma_separated(summary), folder)


def write_sheet(sheet: Sheet, csv_text: str, folder: Path) -> dict[str, Path]:
    """Writes ``<name>.md``, ``.csv`` and ``.tex`` into ``folder``; returns suffix -> path."""
    texts = {"md": sheet_markdown(sheet), "csv": csv_text, "tex": sheet_latex(sheet)}
    paths = {suffix: folder / f"{sheet.name}.{suffix}" for suffix in texts}
    return {suffix: write_atomically(path, texts[suffix].encode()) for suffix, path in paths.items()}


def sheet(summary: Summary) -> Sheet:
    """The experiment's own table."""
    name, groups = summary.experiment.name, list(body(summary))
    return Sheet(title(summary), name, header(summary), groups, caption(summary), assumptions(summary))


def sheet_markdown(sheet: Sheet) -> str:
    """The table and its caption; columns are padded, so that it reads as plain text too."""

    def entry(shown: Shown) -> str:
        text = {"best": f"**{shown.text}**", "second": f"<u>{shown.text}</u>", None: shown.text}[shown.mark]
        return (text + shown.tail).replace("|", r"\|")

    lines = [list(sheet.heads)]
    for group in sheet.groups:
        lines.append([f"*{group.title}*", *[""] * (len(sheet.heads) - 1)])
        lines += [[entry(shown) for shown in row] for row in group.rows]
    places = [(max(map(len, column)), at < sheet.left) for at, column in enumerate(zip(*lines, strict=True))]
    rule = [f":{'-' * (width - 1)}" if left else f"{'-' * (width - 1)}:" for width, left in places]
    padded = []
    for line in [lines[0], rule, *lines[1:]]:
        cells = zip(line, places, strict=True)
        texts = [text.ljust(width) if left else text.rjust(width) for text, (width, left) in cells]
        padded.append(f"| {' | '.join(texts)} |")
    notes = [f"- {note}" for note in sheet.notes]
    if sheet.assumed:
        notes += [f"- {ASSUMED}:", *(f"  - {line}" for line in sheet.assumed)]
    return "\n".join([f"# {sheet.title}", "", *padded, "", *notes]) + "\n"


def sheet_latex(sheet: Sheet) -> str:
    """The table and its caption for a paper; the assumptions follow as text, for they are too long for a float."""

    def entry(shown: Shown) -> str:
        text = escape(shown.text)
        text = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", None: text}[shown.mark]
        return text + (rf" {{\scriptsize {escape(shown.tail.strip())}}}" if shown.tail else "")

    heads = sheet.heads
    lines = [" & ".join(escape(head) for head in heads) + r" \\"]
    for group in sheet.groups:
        lines += [r"\midrule", rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{escape(group.title)}}}}} \\"]
        lines += [" & ".join(entry(shown) for shown in row) + r" \\" for row in group.rows]
    assumed = [rf"\par {escape(line)}" for line in sheet.assumed]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage{graphicx}",
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escape(' '.join([f'{sheet.title}.', *sheet.notes]))}}}",
            rf"\label{{tab:{sheet.name}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{'l' * sheet.left}{'r' * (len(heads) - sheet.left)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            *([r"{\footnotesize", f"{ASSUMED}.", *assumed, r"\par}"] if assumed else []),
            "",
        ]
    )


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: rf"\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",
        "]": "{]}",
        "†": r"\textdagger{}",
        "‡": r"\textdaggerdbl{}",
        "±": r"$\pm$",
        "§": r"\S{}",
    }
)


def escape(text: str) -> str:
    """Text with LaTeX's special characters made literal; brackets too, for ``\\\\`` may take one as its argument."""
    return text.translate(_LATEX)


def comma_separated(summary: Summary) -> str:
    """One line per row, every number at full precision: scores as stored, averages as ratios (1.0 = unpruned)."""
    return records_csv([_record(summary, row) for row in summary.rows])


def records_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Records of the same keys, one a line; a quote goes before a text that a spreadsheet would take for a formula."""
    lines = [{key: _no_formula(cell) for key, cell in record.items()} for record in records]
    return pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")


def _no_formula(cell: object) -> object:
    """The cell, with a quote in front if it is a text that begins as formulas do and is not a number."""
    if isinstance(cell, str) and cell.lstrip().startswith(("=", "+", "-", "@")):
        try:
            float(cell)
        except ValueError:
            return f"'{cell}"
    return cell


def _record(summary: Summary, row: TableRow) -> dict[str, object]:
    def bounds(name: str, value: float | None = None, interval: Interval | None = None) -> dict[str, object]:
        low, high = interval or (None, None)
        return {name: value, f"{name}_low": low, f"{name}_high": high}

    hard: dict[str, object] = {}
    if summary.experiment.spec.filter:
        score, interval, questions = hard_questions(summary).get(row.key) or (None, None, None)
        hard = {**bounds("hard", score, interval), "hard_questions": questions}
    compared = row.comparison
    return {
        "experiment": summary.experiment.name,
        "backbone": summary.backbone,
        "row": row.name,
        "method": row.method,
        "budget": row.tokens,
        **{k: v for name in summary.benchmarks for k, v in bounds(name, row.scores[name], row.intervals[name]).items()},
        **bounds("normalized_average", row.average.value, row.average.interval),
        **hard,
        "reference": compared.reference if compared else None,
        **(bounds("difference", compared.difference, compared.interval) if compared else bounds("difference")),
        "p": compared.p if compared else None,
        "p_corrected": compared.corrected if compared else None,
        **row.costs,
        **{f"{phase}_speedup": value for phase, value in row.speedups.items()},
        "flops_ratio": row.flops_ratio,
        "batch_size": row.batch_size,
        "device": row.device,
    }
