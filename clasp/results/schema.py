"""What the files below a results root hold, for those who write them and all who read them. Torch-free.

Each file is a typed dictionary: :func:`read` checks a file against one, :func:`validate` a value, :func:`load` makes a
dataclass of one. Keys that a schema does
not name are left alone, so that a reader takes what a later version adds.
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
"""Characters of a reason in a message."""


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


class CellBudget(TypedDict, total=False):
    """What was asked for: a count of visual tokens or the share removed, of how many."""

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
    """Something that a reader of a result should know of its run; ``event`` says what kind."""

    event: Label


class CellProvenance(TypedDict):
    """Where a result comes from, see :func:`clasp.results.provenance.provenance`."""

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
    """The answers that were written with a cell."""

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
    """Who judged: the kind of judge, the model, and the fingerprint of its prompt."""

    kind: Label
    model: Label
    prompt: Label


class Verdict(TypedDict):
    """A judge's scores of one question, and its reply as it came."""

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
    """A cell that an experiment is made of, existing or not, and the row of the tables that it belongs to."""

    row: Label
    method: Label
    budget: CellBudget
    benchmark: Label
    signature: Signature


class ExperimentReport(TypedDict, total=False):
    """What a report makes of an experiment."""

    title: Label
    table: Literal["accuracy", "efficiency", "categories"]
    figures: list[Literal["accuracy_vs_flops", "score_vs_budget", "heatmap", "fidelity"]]
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
    """The value itself, which is of the kind: no conversion between types.

    Args:
        kind: a typed dictionary or anything else that pydantic takes.
        schema: what its key ``schema`` must have.

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
    """What a JSON file holds, as plain values.

    Raises:
        InvalidFile: it is no JSON object, of another schema, or has a value of another kind.
        OSError: it is not there or cannot be opened.
    """
    return validate(kind, read_object(path), schema)


def load(kind: type[Kind], path: Path, schema: int) -> Kind:
    """As :func:`read`, of a file that holds the fields of the dataclass ``kind``, as an instance of it."""
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
    """The first error as a clause."""
    first = error.errors(include_url=False, include_context=False)[0]
    place, here = "", value
    for part in first["loc"]:  # pydantic names the branches of a union too, which are no places of the value
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
    """What a cell with answers and no score yet reads, by who scores it; None where a run scores at once."""
    return "unjudged" if judged else "not submitted" if server else None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
