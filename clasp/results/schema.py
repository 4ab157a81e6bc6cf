"""Schemas of the files below a results root, for writers and readers. Torch-free.

Each schema is a typed dictionary or a dataclass. :func:`validate` checks a value, :func:`read` a file, and :func:`load`
makes a dataclass from a file. Unknown keys are allowed, so that files of later versions stay readable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from clasp.reading import LARGEST_NUMBER, LONGEST_LABEL, InvalidFile, read_object, writable

LONGEST_REASON = 300
"""Longest reason in a message, in characters."""


def _writable(value: str) -> str:
    if not writable(value):
        raise ValueError("should be a text that a file can hold")
    return value


def _signature(value: str) -> str:
    if not is_signature(value):
        raise ValueError("should be a signature of 24 hex digits")
    return value


Text = Annotated[str, AfterValidator(_writable)]
Label = Annotated[Text, Field(max_length=LONGEST_LABEL)]
Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Amount = Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]
Count = Annotated[int, Field(ge=0, le=int(LARGEST_NUMBER))]
Positive = Annotated[int, Field(ge=1, le=int(LARGEST_NUMBER))]
Signature = Annotated[str, AfterValidator(_signature)]
Table = Literal["accuracy", "efficiency", "categories"]
Figure = Literal["accuracy_vs_flops", "score_vs_budget", "heatmap", "fidelity"]


class CellBudget(TypedDict, total=False):
    """The requested budget: visual tokens kept or share removed, and the visual tokens of an image."""

    tokens: Count | None
    ratio: Amount | None
    visual_tokens: Positive


class Costs(TypedDict):
    """Means per question, see :func:`clasp.evaluation.costs.costs`."""

    visual_tokens: dict[str, Amount]
    text_tokens: Amount
    new_tokens: Amount
    tflops: dict[str, Amount]
    kv_bytes: Amount
    seconds: dict[str, Amount]
    batch_size: Positive
    device: Label


class Event(TypedDict):
    """A notable event of a run, such as a batch that did not fit into memory; ``event`` is its kind."""

    event: Label


class CellProvenance(TypedDict):
    """See :func:`clasp.results.provenance.provenance`."""

    started: NotRequired[Label]
    finished: NotRequired[Label]
    commit: NotRequired[Label | None]
    dirty: NotRequired[bool | None]
    command: NotRequired[str]
    assumptions: NotRequired[list[str] | None]
    versions: NotRequired[dict[str, Label]]
    events: NotRequired[list[Event] | None]
    allowed: NotRequired[list[Label] | None]


class AnswersFile(TypedDict):
    """The file of a cell's answers."""

    file: Label
    sha256: Label
    count: Count


class Cell(TypedDict):
    """``cells/<signature>.json``: one backbone x method x budget x benchmark."""

    schema: int
    signature: Signature
    identity: dict[str, Any]
    backbone: Label
    method: Label
    budget: CellBudget
    benchmark: Label
    category: Label | None
    metric: Label
    score: Number | None
    scores: dict[str, Number]
    questions: Positive
    available: Count | None
    limit: Positive | Literal["all"]
    answers: AnswersFile
    costs: Costs
    provenance: CellProvenance


class AnswerLine(TypedDict, total=False):
    """A line of ``cells/<signature>.jsonl``: one question."""

    question_id: Text | Number | None
    prompt: str
    prediction: str
    score: Number | None
    category: Label | None
    routed: Label | None
    detail: dict[str, Text | Number | bool | list[Any] | dict[str, Any] | None] | None


class Judge(TypedDict):
    """A judge: its kind, its model, and the fingerprint of its prompt."""

    kind: Label
    model: Label
    prompt: Label


class Verdict(TypedDict):
    """A judge's scores of one question, and its unparsed reply."""

    score: Number
    scores: dict[str, Number]
    verdict: str


class Judgement(TypedDict):
    """``cells/<signature>.judge.json``: a judge's scores of a cell that has none of its own.

    ``answers`` is the SHA-256 of the answers file that was judged; a judgement of other answers is none. ``score`` is
    the mean over questions, ``scores`` the same of each value that the judge gives, ``questions`` in the order of the
    answers.
    """

    schema: int
    signature: Signature
    judge: Judge
    answers: Label
    score: Number
    scores: dict[str, Number]
    questions: list[Verdict]
    finished: Label


class ExperimentColumn(TypedDict):
    """A column of an experiment's tables."""

    name: Label
    metric: NotRequired[Label]
    protocol: NotRequired[Label]
    category: NotRequired[Label | None]
    judge: NotRequired[Label | None]
    server: NotRequired[bool]


class ExperimentCell(TypedDict):
    """A cell of an experiment, computed or not, and its row in the tables."""

    row: Label
    method: Label
    budget: CellBudget
    benchmark: Label
    signature: Signature


class ExperimentReport(TypedDict, total=False):
    """How a report shows an experiment."""

    title: Label
    table: Table
    figures: list[Figure]
    reference: Label | None
    filter: Label | None
    published: Label | None


class ExperimentFile(TypedDict):
    """``experiments/<name>.json``: rows, benchmarks and cells of an experiment."""

    schema: int
    name: NotRequired[str]
    command: NotRequired[str]
    benchmarks: list[ExperimentColumn]
    cells: list[ExperimentCell]
    report: NotRequired[ExperimentReport | None]


class LockFile(TypedDict):
    """``running/<signature>.<generation>.lock``: the process that computes a cell."""

    host: Label
    machine: Label
    pid: Count
    started: Count
    slurm_job: Label | None
    label: NotRequired[Label]
    questions: NotRequired[Count | None]
    since: NotRequired[Label]


Kind = TypeVar("Kind")


def validate(kind: type[Kind], value: object, schema: int | None = None) -> Kind:
    """Returns the value unchanged if it conforms to a schema; types are not converted.

    Args:
        kind: a typed dictionary or any other type that pydantic accepts.
        schema: the version that its key ``schema`` must state.

    Raises:
        InvalidFile: names the place, the value and what is allowed there.
    """
    _check_schema(value, schema)
    try:
        _adapter(cast(Hashable, kind)).validate_python(value, strict=True)
    except ValidationError as error:
        raise InvalidFile(reason(error, value)) from error
    return value  # type: ignore[return-value]


def read(kind: type[Kind], path: Path, schema: int | None = None) -> Kind:
    """The content of a JSON file, validated.

    Raises:
        InvalidFile: it is no JSON object, has another schema version, or does not conform to the schema.
        OSError: it is not there or cannot be opened.
    """
    return validate(kind, read_object(path), schema)


def load(kind: type[Kind], path: Path, schema: int) -> Kind:
    """As :func:`read`, but returns an instance of the dataclass ``kind``."""
    value = read_object(path)
    _check_schema(value, schema)
    try:
        return _adapter(cast(Hashable, kind)).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise InvalidFile(reason(error, value)) from error


def _check_schema(value: object, schema: int | None) -> None:
    if schema is not None and isinstance(value, Mapping) and value.get("schema") != schema:
        raise InvalidFile(f"its schema is {_shown(value.get('schema'))}, this version reads {schema}")


def reason(error: ValidationError, value: object) -> str:
    """The first error, as a clause for a message."""
    first = error.errors(include_url=False, include_context=False)[0]
    place, here = "", value
    for part in first["loc"]:  # pydantic also names branches of unions, which are no keys of the value
        if isinstance(part, int):
            place, here = f"{place}[{part}]", here[part] if isinstance(here, list) and part < len(here) else None
        elif first["type"] == "missing" or (isinstance(here, dict) and part in here):
            place, here = f"{place}.{part}" if place else part, here.get(part) if isinstance(here, dict) else None
    if first["type"] == "missing":
        return f"the key {place!r} is missing"
    needed = re.sub(r"^(Value error,|Input|String|List|Dictionary) ", "", first["msg"])
    return f"{place or 'its content'} is {_shown(first['input'])}, which {needed}"[:LONGEST_REASON]


def is_signature(value: object) -> bool:
    """Whether it is a signature: 24 hex digits."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{24}", value) is not None


def waiting(judged: bool, server: bool) -> str | None:
    """Label of an answered cell without a score, by who scores it; None if the run itself scores it."""
    return "unjudged" if judged else "not submitted" if server else None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
