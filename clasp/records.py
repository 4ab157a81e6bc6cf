"""What the files below a results root look like, for all that read them: shapes for :func:`conform`. Torch-free.

A shape says what a key holds where it is there; which keys must be there is the reader's to say.
"""

from __future__ import annotations

from clasp.reading import (
    Shape,
    amount,
    anything,
    count,
    flag,
    keyed,
    label,
    nothing,
    number,
    one_of,
    positive,
    signature,
    text,
    writable,
)


def waiting(judged: bool, server: bool) -> str | None:
    """What a cell with answers and no score yet reads, by who scores it; None where a run scores at once."""
    return "unjudged" if judged else "not submitted" if server else None


TABLES = ("accuracy", "efficiency", "categories")
FIGURES = ("accuracy_vs_flops", "score_vs_budget", "heatmap")

_LABEL: Shape = (label, nothing)

BUDGET: Shape = {"tokens": (count, nothing), "ratio": (amount, nothing), "visual_tokens": positive}

COSTS: Shape = {
    "visual_tokens": keyed(amount),
    "text_tokens": amount,
    "new_tokens": amount,
    "tflops": keyed(amount),
    "kv_bytes": amount,
    "seconds": keyed(amount),
    "batch_size": positive,
    "device": label,
}

PROVENANCE: Shape = {
    "commit": _LABEL,
    "dirty": (flag, nothing),
    "command": text,
    "assumptions": ([text], nothing),
    "versions": keyed(label),
    "started": label,
    "finished": label,
    "events": ([{"event": label}], nothing),
    "allowed": ([label], nothing),
}

CELL: Shape = {
    "signature": signature,
    "identity": keyed(anything),
    "backbone": label,
    "method": label,
    "budget": BUDGET,
    "benchmark": label,
    "category": _LABEL,
    "metric": label,
    "score": (number, nothing),
    "scores": keyed(number),
    "questions": positive,
    "available": (count, nothing),
    "limit": (positive, one_of("all")),
    "answers": {"file": label, "sha256": label, "count": count},
    "costs": COSTS,
    "provenance": PROVENANCE,
}

ANSWER: Shape = {
    "question_id": (writable, number, nothing),
    "prompt": text,
    "prediction": text,
    "score": (number, nothing),
    "category": _LABEL,
    "routed": _LABEL,
    "detail": (keyed((writable, number, flag, nothing, [anything], keyed(anything))), nothing),
}

JUDGEMENT: Shape = {
    "signature": signature,
    "judge": {"kind": label, "model": label, "prompt": label},
    "answers": label,
    "score": number,
    "scores": keyed(number),
    "questions": [{"score": number, "scores": keyed(number), "verdict": text}],
}

EXPERIMENT: Shape = {
    "command": text,
    "benchmarks": [
        {"name": label, "metric": label, "protocol": label, "category": _LABEL, "judge": _LABEL, "server": flag}
    ],
    "cells": [{"row": label, "method": label, "budget": BUDGET, "benchmark": label, "signature": signature}],
    "report": (
        {
            "title": label,
            "table": one_of(*TABLES),
            "figures": [one_of(*FIGURES)],
            "reference": _LABEL,
            "filter": _LABEL,
            "published": _LABEL,
        },
        nothing,
    ),
}

CLAIM: Shape = {
    "host": label,
    "machine": label,
    "pid": count,
    "started": count,
    "slurm_job": _LABEL,
    "label": label,
    "questions": (count, nothing),
    "since": label,
}
