"""Last step of the training: exports the checkpoints of a run to the shipped folder, and writes the run's log."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from clasp.fingerprint import folder_fingerprint
from clasp.tiny.training import STAGES
from clasp.tiny.training.course import Course
from clasp.tiny.training.loop import write_json
from clasp.tiny.training.model import export


def ship(checkpoints: Path, target: Path, log: Path) -> bool:
    """Writes the model in its current state of training, and the log with every stage's curve.

    The decoder is that of the last stage with a checkpoint; untrained parts keep their initial values. Scores in an
    earlier log belong to other weights and are dropped.

    Returns:
        Whether the last stage is complete; if not, the model's configuration states that training is incomplete
        (:data:`clasp.tiny.training.model.TRAINED`).
    """
    course = Course(checkpoints)
    trainers = [course.trainer(stage) for stage in STAGES]  # loads each stage's checkpoint
    ended = trainers[-1].step >= trainers[-1].plan.steps
    export(course.deep, course.clip, course.tokenizer, target, ended)
    write_json(
        log,
        {
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "weights": folder_fingerprint(target),
            "parameters": sum(value.numel() for value in course.deep.parameters()),
            "ended": ended,
            "recipe": json.loads(json.dumps(asdict(course.recipe))),
            "stages": [trainer.summary() for trainer in trainers if trainer.step > 0],
        },
    )
    return ended
