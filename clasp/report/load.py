"""Loads an experiment's cells, checked, into a data frame. Reads only, and only below the results root; torch-free.

``<results>/experiments/<experiment>.json`` lists an experiment's rows, benchmarks and cells in plan order,
``cells/<signature>.json`` is one cell, ``<signature>.jsonl`` its answers, one question per line, and
``<signature>.judge.json`` the scores of a judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import ConfigDict

from clasp.reading import InvalidFile, parse_object, read_text
from clasp.results.schema import AnswerLine, Cell, ExperimentColumn, ExperimentFile, Judgement, read, validate
from clasp.strict import shown

if TYPE_CHECKING:  # importing it takes longer than a run needs that only logs its cells
    import pandas as pd

Kind = TypeVar("Kind")

SCHEMA, EXPERIMENT_SCHEMA = 1, 2
UNPRUNED = "none"
"""Name of the method that prunes nothing: the reference of every normalized average."""
CONVENTIONS = ("nominal", "output_average", "input_average", "final")
"""The four token-count conventions; every cell stores all of them."""
CUSTOM = "custom_"
"""Prefix of a benchmark that is a user's own file."""
REMEDY = "run the experiment again, which sets bad files aside and fills the gaps"
STRICT = ConfigDict(strict=True, allow_inf_nan=False, val_json_bytes="base64")
"""How stored dataclasses are read: types are not converted, bytes are base64, unknown keys are ignored."""


class ReportError(ValueError):
    """A report cannot be built from the stored results; the message says what is wrong and what to do."""


class NothingToShow(ReportError):
    """The results are sound, but they have no point for a figure: too few questions, or cells yet to be run.

    Gaps are no errors: the builder puts the message, which says why and what to do, where the figure would be.
    """


@dataclass(frozen=True)
class Planned:
    """A cell of an experiment, by its place in the tables."""

    row: str
    method: str
    tokens: int
    benchmark: str
    signature: str


class ReportSpec(NamedTuple):
    """What a report shows of an experiment: ``report`` in its configuration."""

    title: str = ""
    table: str = "accuracy"
    figures: Sequence[str] = ("accuracy_vs_flops",)
    reference: str | None = None
    published: str | None = None
    filter: str | None = None


@dataclass(frozen=True)
class Experiment:
    """The cells of one experiment.

    Args:
        command: the command line that ran it.
        frame: one line per planned cell that exists, in plan order; see :func:`flat` for the columns, and ``row``.
        columns: the planned benchmarks, in plan order, also where no cell of theirs exists yet.
        planned: every cell, existing or not; ``missing``: those that do not exist.
    """

    name: str
    results: Path
    command: str
    frame: pd.DataFrame
    columns: list[ExperimentColumn]
    planned: tuple[Planned, ...]
    missing: tuple[Planned, ...]
    spec: ReportSpec

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(column["name"] for column in self.columns)

    @property
    def tables(self) -> dict[str, Path]:
        """Suffix -> where the experiment's table belongs."""
        return {suffix: self.results / "tables" / f"{self.name}.{suffix}" for suffix in ("md", "csv", "tex")}

    @property
    def figures(self) -> list[Path]:
        """Where the experiment's figures belong."""
        return [path for name in self.spec.figures for path in self.figure(name).values()]

    def figure(self, name: str) -> dict[str, Path]:
        """Suffix -> where a figure of the experiment belongs."""
        return figure_files(self.results, f"{name}_{self.name}")

    def answers(self, signature: str) -> list[dict[str, Any]]:
        """A cell's answers, one question a line; a judge's scores stand in them where it has judged.

        Raises:
            ReportError: the answers are missing, cut short, or not those of the cell.
        """
        cell = read_cell(self.results, signature)
        answers, judged = read_answers(self.results, signature, cell["questions"]), read_judgement(self.results, cell)
        if judged is None:
            return answers
        return [{**one, "score": verdict["score"]} for one, verdict in zip(answers, judged["questions"], strict=True)]


def figure_files(results: Path, stem: str) -> dict[str, Path]:
    """Suffix -> where a figure belongs below a results root."""
    return {suffix: results / "figures" / f"{stem}.{suffix}" for suffix in ("png", "svg")}


def load_experiment(name: str, results: Path) -> Experiment:
    """The experiment ``name`` with every cell of it that exists.

    Raises:
        ReportError: the experiment has not been run, or one of its files cannot be used.
    """
    import pandas as pd

    if not re.fullmatch(r"[A-Za-z0-9_\-]{1,100}", name):
        raise ReportError(f"experiment name {name[:100]!r} is not usable; use letters, digits, '_' and '-' only")
    path, first = results / "experiments" / f"{name}.json", f"run 'clasp-eval run experiment={name}' first"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise ReportError(
            f"experiment {name!r} has not been run yet ({path} does not exist; experiments run so far: {known}); "
            f"{first}"
        )
    record = read_stored(read, ExperimentFile, path, EXPERIMENT_SCHEMA)
    planned = tuple(
        Planned(cell["row"], cell["method"], budget_tokens(cell), cell["benchmark"], cell["signature"])
        for cell in record["cells"]
    )
    stated = record.get("report") or {}
    spec = ReportSpec(**{key: value for key, value in stated.items() if key in ReportSpec._fields})  # type: ignore[arg-type]
    there = {cell.signature for cell in planned if (results / "cells" / f"{cell.signature}.json").is_file()}
    if not there:
        raise ReportError(f"experiment {name!r} has none of its {len(planned)} cells yet; {first}")
    flats = {signature: flat(judged_cell(results, signature)) for signature in there}
    lines = [{**flats[c.signature], "row": c.row, "tokens": c.tokens} for c in planned if c.signature in there]
    missing = tuple(cell for cell in planned if cell.signature not in there)
    command = str(record.get("command", ""))
    found = Experiment(name, results, command, pd.DataFrame(lines), record["benchmarks"], planned, missing, spec)
    _check_frame(found)
    return found


def _check_frame(experiment: Experiment) -> None:
    name, frame = experiment.name, experiment.frame
    backbones = list(frame["backbone"].unique())
    if len(backbones) > 1:
        raise ReportError(f"experiment {name!r} mixes the backbones {backbones}; a table holds one, so run one each")
    unplanned = sorted({cell.benchmark for cell in experiment.planned} - set(experiment.benchmarks))
    if unplanned:
        raise ReportError(f"experiment {name!r} has cells of {unplanned}, which its list of benchmarks lacks; {REMEDY}")
    cells: dict[tuple[str, int, str], Planned] = {}
    for cell in experiment.planned:
        first = cells.setdefault((cell.row, cell.tokens, cell.benchmark), cell)
        if first is not cell:
            raise ReportError(
                f"experiment {name!r} has several cells for row {cell.row!r} at {cell.tokens} tokens on "
                f"{cell.benchmark!r} ({first.signature}, {cell.signature}); a table needs one, so give variants names "
                "of their own under grid.variants"
            )


def read_cell(results: Path, signature: str) -> Cell:
    """One cell's results file.

    Raises:
        ReportError: it cannot be read, or is not what its name says.
    """
    path = results / "cells" / f"{signature}.json"
    cell = read_stored(read, Cell, path, SCHEMA)
    if cell["signature"] != signature:
        raise ReportError(f"results file {path} holds the signature {shown(cell['signature'])}; {REMEDY}")
    return cell


def judged_cell(results: Path, signature: str) -> Mapping[str, Any]:
    """A cell, with the score and the name of the judge where one has completed it (``judge_model``)."""
    cell = read_cell(results, signature)
    judged = read_judgement(results, cell)
    if judged is None:
        return cell
    return {**cell, "score": judged["score"], "scores": judged["scores"], "judge_model": judged["judge"]["model"]}


def read_judgement(results: Path, cell: Mapping[str, Any]) -> Judgement | None:
    """A judge's scores of a cell that has no score of its own: ``<signature>.judge.json``; None where none has judged.

    Raises:
        ReportError: it cannot be read, or is about other answers.
    """
    path = results / "cells" / f"{cell['signature']}.judge.json"
    if cell["score"] is not None or not path.is_file():
        return None
    judged = read_stored(read, Judgement, path)
    if judged["answers"] != cell["answers"]["sha256"] or len(judged["questions"]) != cell["questions"]:
        raise ReportError(f"judgement {path} is not about its cell's answers; remove it and run clasp-eval judge again")
    return judged


def read_answers(results: Path, signature: str, questions: int) -> list[dict[str, Any]]:
    """A cell's answers, one question a line, of as many ``questions`` as it has.

    Raises:
        ReportError: the answers are missing, cut short, or not those of the cell.
    """
    path = results / "cells" / f"{signature}.jsonl"
    try:
        answers = [dict(validate(AnswerLine, parse_object(line))) for line in read_text(path).split("\n") if line]
    except (OSError, InvalidFile) as error:
        raise ReportError(f"answers file {path} cannot be read ({error}); {REMEDY}") from error
    if len(answers) != questions:
        raise ReportError(f"answers file {path} has {len(answers)} lines, its cell has {questions}; {REMEDY}")
    return answers


def read_stored(
    reader: Callable[..., Kind], kind: type[Kind], path: Path, schema: int | None = None, remedy: str = REMEDY
) -> Kind:
    """What a JSON file holds, checked by :func:`clasp.results.schema.read` (a typed dictionary) or
    :func:`~clasp.results.schema.load` (a dataclass); ``remedy`` ends the message of a file that cannot be used.

    Raises:
        ReportError: the file is missing, of another schema, or has a value of another kind.
    """
    try:
        return reader(kind, path, schema)
    except (OSError, InvalidFile) as error:
        raise ReportError(f"{path} cannot be used ({error}); {remedy}") from error


def budget_tokens(cell: Mapping[str, Any]) -> int:
    """The cell's budget as visual tokens per image; the image's own count where nothing is pruned."""
    budget = cell["budget"]
    if cell["method"] == UNPRUNED:
        return int(budget["visual_tokens"])
    if budget["tokens"] is not None:
        return int(budget["tokens"])
    return round(budget["visual_tokens"] * (1.0 - budget["ratio"]))


def timestamp(text: str | None) -> float:
    """Seconds since 1970 of a time as cells store it, which is UTC where it names no zone; NaN where there is none.

    Raises:
        ValueError: the text is not a time.
    """
    if not text:
        return float("nan")
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as one flat row.

    ``tokens`` is the budget as a count per image. Visual tokens come in all four token-count conventions; seconds are
    means per question, ``tflops_*`` 1e12 multiply-adds of the decoder's prefill, ``kv_bytes`` measured means;
    ``started`` and ``finished`` are seconds since 1970.

    Raises:
        ReportError: the cell lacks a key, or holds a time that cannot be read.
    """
    try:
        costs, provenance = cell["costs"], cell["provenance"]
        decoded = costs["new_tokens"] - 1.0
        return {
            **{key: cell[key] for key in ("signature", "backbone", "method", "benchmark", "metric")},
            **{key: cell[key] for key in ("score", "questions", "available")},
            "tokens": budget_tokens(cell),
            "visual_tokens": cell["budget"]["visual_tokens"],
            **{key: costs["visual_tokens"][key] for key in CONVENTIONS},
            "text_tokens": costs["text_tokens"],
            "tflops_gated": costs["tflops"]["gated"],
            "tflops_two_matrix": costs["tflops"]["two_matrix"],
            "kv_bytes": costs["kv_bytes"],
            **{f"{phase}_seconds": costs["seconds"][phase] for phase in ("prefill", "decode", "total")},
            # the first token comes from the prefill, and one-token answers decode nothing
            "decode_seconds_per_token": costs["seconds"]["decode"] / decoded if decoded > 0 else float("nan"),
            "batch_size": costs["batch_size"],
            "device": costs["device"],
            **{end: timestamp(provenance.get(end)) for end in ("started", "finished")},
            "judge_model": cell.get("judge_model"),
            "assumptions": tuple(provenance.get("assumptions") or ()),
            "commit": str(provenance.get("commit") or "unknown")[:12] + ("+changes" if provenance.get("dirty") else ""),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"results file {cell['signature']}.json cannot be used ({error}); {REMEDY}") from error
