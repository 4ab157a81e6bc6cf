"""lmms-eval tasks over local files; nothing is downloaded and no dataset cache is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from lmms_eval.api.task import ConfigurableTask
from PIL import Image

from clasp.evaluation.generation.answering import EvaluationError
from clasp.evaluation.questions import videos
from clasp.evaluation.questions.embedded import ensure

ROOT_VARIABLE = "CLASP_DATA"


class LocalTask(ConfigurableTask):
    """Questions of one embedded benchmark.

    The data root is ``dataset_kwargs.root`` of the task's configuration (the runner sets it), else the environment
    variable ``CLASP_DATA``, else ``data`` in the working directory. Missing files are built there first. With
    ``dataset_kwargs.file`` the rows are that parquet file's, and with ``dataset_kwargs.blank`` every image is gray.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Where lmms-eval's own tasks fetch their data sets: one with images, and one without for the log."""
        questions = self.questions(dataset_kwargs or {})
        shown = [column for column in ("image", "images") if column in questions.column_names]
        self.dataset = datasets.DatasetDict(test=questions)
        self.dataset_no_image = datasets.DatasetDict(test=questions.remove_columns(shown))

    def questions(self, settings: Mapping[str, Any]) -> datasets.Dataset:
        """The data set of the task, of ``dataset_kwargs``."""
        name, file = self.config.dataset_path, settings.get("file")
        path = Path(file) if file else ensure(data_root(settings), [name])[name].path
        questions = _read(path, path.stat().st_mtime_ns)
        if settings.get("blank"):
            questions = questions.map(_blanked, load_from_cache_file=False, keep_in_memory=True)
        return questions


class VideoTask(LocalTask):
    """Questions of one video set (see ``videos.py``), each with its video's path, whether or not it is there.

    The runner checks the videos of the questions that it asks before a model loads; the model refuses a missing one.
    """

    def questions(self, settings: Mapping[str, Any]) -> datasets.Dataset:
        root, name = data_root(settings), self.config.dataset_path
        rows = videos.questions(root, name)
        paths = videos.video_paths(root, name, rows)
        return datasets.Dataset.from_list([row | {"video": str(path)} for row, path in zip(rows, paths, strict=True)])


def data_root(settings: Mapping[str, Any]) -> Path:
    """Where the benchmarks' files are, as :class:`LocalTask` says."""
    return Path(settings.get("root") or os.environ.get(ROOT_VARIABLE) or "data")


def _blanked(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"image": Image.new("RGB", document["image"].size, (128, 128, 128))}


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> datasets.Dataset:
    """The file's rows, cached for the further methods of a run; ``modified`` is the file's time stamp."""
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise EvaluationError(f"{path} cannot be read ({error}); delete it and it is built anew") from error
    return datasets.Dataset(table).cast_column("image", datasets.Image())
