"""The training's last step: from the checkpoints of a run to the folder that the package ships, and the run's log."""

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
    """Writes the model as far as it is trained, and the log with every stage's curve.

    The decoder comes from the last stage that has a checkpoint; what none has trained is as it was drawn. Scores that
    an earlier log holds are of other weights and are left out.

    Returns:
        Whether the last stage has ended; else the model's configuration says that its training has not
        (:data:`clasp.tiny.training.model.TRAINED`).
    """
    course = Course(checkpoints)
    trainers = [course.trainer(stage) for stage in STAGES]  # each takes its checkpoint over
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
