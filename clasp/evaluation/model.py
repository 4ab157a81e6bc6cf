"""Our lmms-eval model ``clasp``: any backbone of the engine under any pruning method, in batches.

From lmms-eval's own command line::

    python -m lmms_eval --model clasp --model_args pretrained=tiny,method=clasp,tokens=64 \\
        --include_path clasp/evaluation/tasks --tasks clasp_tiny_textvqa --batch_size 8

The runner hands it a model that is already loaded instead (:meth:`ClaspModel.over`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.task import TaskConfig
from PIL import ImageFile
from tqdm import tqdm

from clasp.backbones.presentation import Presentation
from clasp.categories import CATEGORIES
from clasp.evaluation.generation.answering import Answer, Answerer, EvaluationError, Question
from clasp.evaluation.questions.images import ImageError

EXAMPLES_END = TaskConfig.fewshot_delimiter


class Images(Sequence[Any]):
    """A question's images, decoded whenever they are read: those of a whole benchmark do not fit into memory.

    Args:
        read: decodes them.
        count: number of images.
    """

    def __init__(self, read: Callable[[], Sequence[Any]], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read() if self._count else ())

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]


def _without_default_stop(generation: dict[str, Any]) -> dict[str, Any]:
    """A task's generation settings without the stop string that lmms-eval adds where a task names none.

    It is the blank line between few-shot examples, :data:`EXAMPLES_END`, and would cut an answer of several paragraphs
    (MM-Vet, videos) after the first; lmms-eval's own classes for LLaVA and Qwen do not stop there either.
    """
    stops = generation.get("until") or ()
    stops = [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop != EXAMPLES_END]
    settings = {name: value for name, value in generation.items() if name != "until"}
    return settings | ({"until": stops} if stops else {})


class ClaspModel(lmms):
    """A pruned model for lmms-eval's ``generate_until`` tasks.

    Args:
        pretrained: ``tiny``, a hub id or a local folder.
        method: name of a pruning method.
        dtype, device: see :func:`clasp.load`.
        batch_size: questions per forward pass.
        max_batch_size: accepted because lmms-eval passes it; batches are not grown automatically.
        parameters: of :class:`clasp.backbones.presentation.Presentation` (``preprocessing=pad``, ...), or else of the
            method (``tokens=64``, ``seed=1``, ...).

    Attributes:
        answers: what the latest ``generate_until`` returned, with costs, in the order of its requests.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str = "none",
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **parameters: Any,
    ) -> None:
        from clasp.backbones import adapter_module, load
        from clasp.methods import build

        names = {field.name for field in fields(Presentation)} & set(parameters)
        shown = Presentation(**{name: parameters.pop(name) for name in names})
        chosen = build(method, parameters)  # before the model loads: a wrong parameter costs nothing
        if shown.identity():
            shown.check(pretrained, adapter_module(pretrained))
        model, processor = load(pretrained, dtype=dtype, device=device)
        self._attach(Answerer(model, processor, chosen, int(batch_size), presentation=shown), None)

    @classmethod
    def over(cls, answerer: Answerer, advance: Callable[[int], object] = lambda count: None) -> ClaspModel:
        """The same around a model that is already loaded.

        ``advance`` is called with the number of questions after each batch, and replaces this class's progress bar.
        """
        model = cls.__new__(cls)
        model._attach(answerer, advance)
        return model

    def _attach(self, answerer: Answerer, advance: Callable[[int], object] | None) -> None:
        lmms.__init__(self)
        self._answerer, self._advance = answerer, advance
        self.answers: list[Answer] = []

    @property
    def device(self) -> torch.device:
        return self._answerer.model.device

    @property
    def batch_size(self) -> int:
        return self._answerer.batch_size

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers to the requests, in their order.

        Raises:
            EvaluationError: a question that cannot be asked, or an image that cannot be read.
        """
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # lmms-eval sets it, and a cut image is then half grey
        questions = [self._question(*request.args) for request in requests]
        hidden = self.rank != 0 or self._advance is not None
        with tqdm(total=len(questions), desc="questions", disable=hidden) as bar:
            self.answers = self._answerer.answer(questions, self._advance or bar.update)
        return [answer.text for answer in self.answers]

    def _question(
        self, text: str, generation: dict[str, Any], doc_to_visual: Callable[..., Any], row: int, task: str, split: str
    ) -> Question:
        name, documents = f"{task}[{row}]", self.task_dict[task][split]

        def read() -> tuple[Any, list[str], list[Any]]:
            """The document, its videos, its images."""
            try:
                document = documents[row]
                media = list(doc_to_visual(document) or ())
                images = [self._decoded(item) for item in media if not isinstance(item, str)]
            except (OSError, SyntaxError) as error:  # what PIL raises for damaged files
                raise EvaluationError(
                    f"{name}: the image cannot be read ({error}); delete the benchmark's file and it is built anew"
                ) from error
            except ImageError as error:
                raise EvaluationError(f"{name}: the image cannot be used: {error}") from error
            return document, [item for item in media if isinstance(item, str)], images

        document, videos, images = read()  # before the model runs, so that a damaged image shows early
        category = document.get("category") if isinstance(document, dict) else None
        if category not in CATEGORIES:  # MME, MMBench, POPE and ScienceQA have groups of their own under that name
            category = None
        settings = _without_default_stop(generation)
        return Question(name, text, Images(lambda: read()[2], len(images)), settings, category, videos)

    @staticmethod
    def _decoded(image: Any) -> Any:
        if not hasattr(image, "convert"):
            kind = type(image).__name__
            raise EvaluationError(f"{kind} input is not supported; questions take images and paths of videos")
        image.load()
        return image

    def clean(self) -> None:
        """lmms-eval calls this after each evaluation; the model stays loaded, because the next cell needs it."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise EvaluationError("tasks scored by log-likelihood are not supported; use generate_until tasks")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise EvaluationError("tasks of several rounds are not supported; use generate_until tasks")
