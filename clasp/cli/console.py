"""Console output: errors as one sentence, plans and results. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
)

from clasp.config import RunConfig
from clasp.evaluation.benchmarks import get_benchmark
from clasp.evaluation.questions.custom import BadRows
from clasp.launch.formatting import aligned
from clasp.launch.sweep import JobsOutcome, Request
from clasp.results.schema import Cell
from clasp.results.store import CellSpec, CellStore
from clasp.strict import known_fields, shown, unknown_key

if TYPE_CHECKING:
    from clasp.evaluation.plan import Plan

_INTERPOLATED = "ConfigError raised while resolving interpolation: "
FAILED = 1
"""Exit code."""
LONGEST_SENTENCE = 2000
"""Characters of the longest error that is printed; Hydra repeats its input in errors."""


def explain(error: BaseException) -> str:
    """An error, also one of Hydra, as one sentence with the value, the allowed ones and the remedy.

    Only the bad lines of a user's own questions are listed on several lines. Control characters and surrogates are
    escaped, because values may come from untrusted files.
    """
    text = _sentence(error)
    plain = (one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)
    words = "".join(plain)
    return words if isinstance(error, BadRows) or len(words) <= LONGEST_SENTENCE else f"{words[:LONGEST_SENTENCE]}..."


def _sentence(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(error, RecursionError | MemoryError):
        return "the command line or a configuration file is nested too deeply or too large; write it shorter"
    if isinstance(error, InterpolationResolutionError) and str(error).startswith(_INTERPOLATED):
        return str(error).removeprefix(_INTERPOLATED).split("\n")[0]
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return f"unknown {group} {choice!r}: use one of {', '.join(sorted(error.options))}"
    if isinstance(error, MissingMandatoryValue):
        return f"key {error.full_key!r} has no value; give it one with {error.full_key}=..."
    if isinstance(error, OverrideParseException):
        typed = shown(error.override)
        return f"override {typed} cannot be read; write key=value, with quotes around lists: 'key=[a,b]'"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        section, _, key = str(cause.full_key).rpartition(".")
        if section and key in known_fields(RunConfig, section):
            return f"the chosen {section} takes no {key!r}; choose one that does, see configs/{section}/"
        there = [str(name) for name in cause.parent_node or () if name != "hydra"]
        return str(unknown_key(key, there, section))
    if isinstance(error, BadRows):
        return str(error)
    return " ".join(str(error).split()) or type(error).__name__


def print_outcome(request: Request, outcome: JobsOutcome) -> int:
    """Prints what a launcher's jobs computed of a configuration, and logs it to W&B; returns the exit code."""
    from clasp.report.wandb_log import log_group

    planned, config = request.plan, request.config
    print_plan(planned, config)
    store = CellStore(config.paths.results)
    found = {spec.signature: store.completed(cell) for spec in planned.cells if (cell := store.get(spec.signature))}
    for group in planned.groups:
        cells = [found[spec.signature] for spec in group.specs if spec.signature in found]
        if outcome.computed.intersection(cell["signature"] for cell in cells):
            log_group(cells, settings=config.wandb, experiment=config.name, results=config.paths.results)
    print_results(planned, config, tuple(found.values()), len(outcome.computed), len(outcome.failed))
    for label, reason in outcome.failed.items():
        print(f"error: failed: {label}: {reason}", file=sys.stderr)
    for label in outcome.absent:
        print(f"error: missing: {label}: its job ended before; run the same command again", file=sys.stderr)
    return FAILED if outcome.failed or outcome.absent else 0


def print_plan(planned: Plan, config: RunConfig) -> None:
    for notice in planned.notices:
        print(f"note: {notice}")
    print(f"{config.name}: {len(planned.cells)} cells, {len(planned.groups)} of method x budget, "
          f"on {config.backbone.name}; results in {config.paths.results}/cells")  # fmt: skip


def print_results(planned: Plan, config: RunConfig, cells: Sequence[Cell], computed: int, failed: int) -> None:
    """Prints the results of a configuration, and how many of them are new."""
    from clasp.evaluation.judging.judge import kind_of

    print(results_table(planned.rows, cells))
    print(f"{computed} cells computed, {len(cells) - computed} were there already, {failed} failed")
    waiting = [cell for cell in cells if cell["score"] is None and kind_of(cell) is not None]
    if waiting:
        print(f"note: {len(waiting)} unjudged; score them with: clasp-eval judge results={config.paths.results}")


def results_table(rows: Iterable[tuple[str, Sequence[CellSpec]]], cells: Iterable[Mapping[str, Any]]) -> str:
    """A table with one line per row and budget and one column per benchmark; scores in [0, 1] are in percent.

    A cell without a score says what it waits for, for example "unjudged".

    Args:
        rows: of a plan: name and cells.
        cells: the cells that exist.
    """
    known = {cell["signature"]: cell for cell in cells}
    found = [(name, specs) for name, specs in rows if any(spec.signature in known for spec in specs)]
    benchmarks = list(dict.fromkeys(spec.benchmark for _, specs in found for spec in specs))
    lines = [["method", "tokens", *benchmarks]]
    for name, specs in found:
        shown = {spec.benchmark: _score(known[spec.signature]) for spec in specs if spec.signature in known}
        lines.append([name, str(specs[0].budget["tokens"]), *(shown.get(name, "-") for name in benchmarks)])
    return "\n".join(aligned(lines))


def _score(cell: Mapping[str, Any]) -> str:
    score = cell["score"]
    if score is None:
        return get_benchmark(cell["benchmark"]).pending or "-"
    return f"{100 * score:.1f}" if 0.0 <= score <= 1.0 else f"{score:.1f}"
