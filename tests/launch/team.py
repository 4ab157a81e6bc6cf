"""``python team.py PACK``: a worker whose second process cannot read the questions of one benchmark."""

from __future__ import annotations

import os
import sys

from clasp.evaluation.generation.answering import EvaluationError
from clasp.evaluation.model import ClaspModel
from clasp.launch import worker

_question = ClaspModel._question


def _failing(self: ClaspModel, *arguments: object) -> object:
    if os.environ["RANK"] == "1" and "clasp_tiny_gqa" in arguments:
        raise EvaluationError("broken on purpose")
    return _question(self, *arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    ClaspModel._question = _failing  # type: ignore[assignment,method-assign]
    sys.exit(worker.main(sys.argv[1:]))
