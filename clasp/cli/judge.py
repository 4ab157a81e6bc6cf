"""Scores the answers of benchmarks that need a judge (MM-Vet, open video questions).

    clasp-eval judge [results=results] [experiment=NAME]

The judge is a language model behind any OpenAI-compatible chat endpoint: OPENAI_BASE_URL is its address (default:
OpenAI's), OPENAI_API_KEY its key (your own server may need none), CLASP_JUDGE_MODEL the model. A stopped command
resumes when it is repeated. Exit status: 0 all cells are judged, 1 some are not, 2 bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clasp.arguments import run
from clasp.evaluation.judging.chat import DEFAULT_MODEL, MODEL_VARIABLE, Chat, Endpoint, endpoint
from clasp.evaluation.judging.judge import JudgeError, judge_cell, unjudged
from clasp.results import experiments
from clasp.results.schema import Cell
from clasp.results.store import CellStore
from clasp.strict import ConfigError


@dataclass(frozen=True)
class JudgeArguments:
    """``experiment`` None: all stored cells."""

    results: Path = Path("results")
    experiment: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Judges all cells that wait for it; returns the exit code."""
    return run(JudgeArguments, _judge, arguments, str(__doc__))


def _judge(arguments: JudgeArguments) -> int:
    store = CellStore(arguments.results)
    name = arguments.experiment
    try:
        selected = store.signatures() if name is None else experiments.planned(store.root, name)
    except FileNotFoundError:
        raise ConfigError(
            f"experiment {name!r} has not been run under {store.root}; name another one, or none for all cells"
        ) from None
    waiting = unjudged(store, selected)
    if not waiting:
        print("no cell waits for a judge")
        return 0
    found = endpoint()
    if found is None:
        raise ConfigError(
            f"{_counted(len(waiting))} for a judge and no endpoint is set; set OPENAI_API_KEY, or "
            f"OPENAI_BASE_URL for a server of your own, and {MODEL_VARIABLE} for another model than {DEFAULT_MODEL}"
        )
    return _judge_all(store, waiting, found)


def _judge_all(store: CellStore, cells: Sequence[Cell], found: Endpoint) -> int:
    from tqdm import tqdm

    left = 0
    with Chat(found) as chat, tqdm(total=sum(cell["answers"]["count"] for cell in cells), unit="question") as bar:
        for number, cell in enumerate(cells):
            label = f"{cell['benchmark']} of {cell['method']} at {cell['budget']['tokens']} on {cell['backbone']}"
            bar.set_description(label)
            try:
                judgement = judge_cell(store, cell, chat, advance=bar.update)
            except JudgeError as error:
                left += 1
                bar.write(f"error: {label} stays unjudged: {error}", file=sys.stderr)
                if error.hopeless:
                    left = len(cells) - number + left - 1
                    break
            else:
                bar.write(f"{label}: {100 * judgement['score']:.1f}, judged by {found.model}")
    if left:
        print(f"error: {_counted(left)} still for a judge; what was judged is kept, run this again", file=sys.stderr)
    return 1 if left else 0


def _counted(cells: int) -> str:
    return "1 cell waits" if cells == 1 else f"{cells} cells wait"
