"""Answers questions with a pruned model, in batches, and measures what each one cost. No lmms-eval in here.

This file decides how a prompt is built and how an answer is read, so its code is part of every cell's signature.
"""

from __future__ import annotations

import copy
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from clasp.backbones import adapter_for
from clasp.backbones.presentation import Downscaling, Presentation
from clasp.cost import Stopwatch
from clasp.evaluation.generation.prefetcher import Inputs, Prefetcher
from clasp.evaluation.questions.frames import Clip, VideoError, sample
from clasp.evaluation.questions.images import rgb
from clasp.methods.downsample import Downsample

if TYPE_CHECKING:
    from clasp.engine import Run
    from clasp.evaluation.generation.vit_cache import ViTCache
    from clasp.methods.base import Method

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 1024
"""Where a task does not say how long an answer may be; lmms-eval's own models take the same."""

AS_PROCESSED = Presentation()
_SAMPLING = ("temperature", "top_p", "top_k")
_KNOWN = {"until", "max_new_tokens", "do_sample", "num_beams", "num_return_sequences", *_SAMPLING}


class EvaluationError(RuntimeError):
    """A question that cannot be asked or an evaluation that cannot be done; the message names it and the remedy."""


@dataclass(frozen=True)
class Question:
    """One prompt.

    Args:
        name: where it comes from, for messages, as ``benchmark[row]``.
        text: the user's turn without image placeholders.
        images: PIL images, first; a sequence of them that reads them anew each time is kept small.
        generation: the task's ``generation_kwargs``.
        category: its true category, where the benchmark knows it; the router ``oracle`` reads it.
        videos: paths, or arrays (frames, height, width, 3) of uint8, after the images and before the text.
    """

    name: str
    text: str
    images: Sequence[Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    category: str | None = None
    videos: Sequence[Any] = ()


@dataclass(frozen=True)
class Seconds:
    """Seconds in the vision tower, in the decoder's prefill with all that pruning adds, in decoding, and in all.

    ``total`` counts image processing and tokenisation too, which another thread does while the model is at work on the
    questions before.
    """

    vision: float
    prefill: float
    decode: float
    total: float


@dataclass(frozen=True)
class Answer:
    """The answer to one question, and its share of the costs of its batch.

    Args:
        text: the model's answer, cut at the task's stop strings.
        routed: category that the method's router chose, where it routes.
        entering: visual tokens that each decoder layer computed on; empty for a prompt without an image.
        leaving: visual tokens that left each decoder layer.
        nominal: the budget of its images, as :class:`clasp.budget.TokenCounts` counts it; 0 without an image.
        text_tokens: prompt tokens that are not visual.
        new_tokens: generated tokens, the end token included; the first one comes from the prefill.
        kv_bytes: bytes of the batch's KV cache after its prefill, divided by its questions.
        seconds: likewise.
    """

    text: str
    routed: str | None
    entering: tuple[int, ...]
    leaving: tuple[int, ...]
    nominal: float
    text_tokens: int
    new_tokens: int
    kv_bytes: float
    seconds: Seconds


class Checkpoint:
    """Where an answerer stores its answers; this base class stores none.

    Attributes:
        events: what happened while the answers were made and belongs into their provenance, as JSON values.
    """

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def stored(self, questions: Sequence[Question]) -> dict[int, Answer]:
        """Answers of an earlier run, by the question's index."""
        return {}

    def before_batch(self) -> None:
        """Called before each batch; an exception from it ends the answering."""

    def store(self, questions: Sequence[Question], answers: Sequence[Answer]) -> None:
        """Stores the answers of one batch."""


class Answerer:
    """Answers questions with one loaded model under one method, greedily or by beam search.

    Where memory is short, batches become smaller.

    Args:
        model: a transformers multimodal model.
        processor: its processor, with a chat template.
        method: the pruning method.
        batch_size: questions per forward pass; answers do not depend on it.
        vit_cache: an open cache of the ViT's layers; the time it saves is added to the answers' times.
        presentation: how images and questions reach the processor.

    Attributes:
        checkpoint: has earlier answers and receives new ones; each cell has its own.
    """

    overlap: ClassVar[bool] = True
    """Whether a batch is prepared while the one before it is answered; measurements switch it off to compare."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: Method,
        batch_size: int = 1,
        vit_cache: ViTCache | None = None,
        presentation: Presentation = AS_PROCESSED,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is below 1")
        if not getattr(processor, "chat_template", None):
            raise EvaluationError(
                "the backbone's processor has no chat template; evaluation needs an instruction model"
            )
        self.model, self.processor, self.method, self.batch_size = model, processor, method, batch_size
        self._vit_cache, self._presentation = vit_cache, presentation
        self.checkpoint = Checkpoint()
        self._largest: int | None = None  # questions that fit into memory at once, once memory has run out
        self._preparing = copy.deepcopy(processor)  # a tokenizer's padding is state, and the engine reads tokens too
        presentation.prepare(self._preparing)
        adapter = adapter_for(model)
        self._smaller: Downscaling | None = None
        if isinstance(method, Downsample):
            method.check(adapter.geometry)  # others' processors have no such bounds
            self._smaller = Downscaling(self._preparing, method.size)
        own = adapter.frames
        self._frames = own and (presentation.frames or own)
        self._warm = False

    def answer(
        self, questions: Sequence[Question], advance: Callable[[int], object] = lambda count: None
    ) -> list[Answer]:
        """Answers in the questions' order; ``advance`` is called with the number of questions after each batch.

        Raises:
            EvaluationError: a question that cannot be asked. Nothing that goes wrong becomes an empty answer.
        """
        for question in questions:
            if problem := self._problem(question):
                raise EvaluationError(f"{question.name}: {problem}")
        answers = self.checkpoint.stored(questions)
        if answers:
            advance(len(answers))
        # the stopwatch is the outer one, so that it also times the pruning itself
        with (
            Stopwatch(self.model) as watch,
            self.method(self.model, self.processor) as run,
            Prefetcher(self._inputs, self.overlap) as prefetcher,
        ):
            if len(answers) < len(questions) and not self._warm:
                # loads the router and warms caches; not counted
                self._try_batch(run, watch, questions[:1], prefetcher.start(questions[:1]))
                self._warm = True
            for indices, inputs in prefetcher.each(self._open_batches(questions, frozenset(answers)), questions):
                batch = [questions[i] for i in indices]
                new = self._answer_parts(run, watch, batch, inputs, prefetcher.start)
                answers.update(zip(indices, new, strict=True))
                advance(len(indices))
        return [answers[i] for i in range(len(questions))]

    def _open_batches(self, questions: Sequence[Question], answered: Collection[int]) -> Iterator[list[int]]:
        """The batches of all questions without those already answered, none larger than what fits into memory."""
        for batch in self._batches(questions):
            unanswered = [i for i in batch if i not in answered]
            while unanswered:
                part = unanswered[: self._largest]
                unanswered = unanswered[len(part) :]
                yield part

    def _answer_parts(
        self,
        run: Run,
        watch: Stopwatch,
        questions: Sequence[Question],
        inputs: Inputs,
        start: Callable[[Sequence[Question]], Inputs],
    ) -> list[Answer]:
        """The answers of a batch, split into as many parts as memory requires; each part is stored when it is done."""
        answers: list[Answer] = []
        while unanswered := questions[len(answers) :]:
            self.checkpoint.before_batch()
            part = unanswered[: self._largest]
            if len(part) < len(questions):  # the inputs were prepared for the whole batch
                inputs = start(part)
            new = self._try_batch(run, watch, part, inputs)
            if new is not None:
                self.checkpoint.store(part, new)
                answers += new
        return answers

    def _try_batch(
        self, run: Run, watch: Stopwatch, questions: Sequence[Question], inputs: Inputs
    ) -> list[Answer] | None:
        """Answers, or None where memory ran out and a smaller batch should be tried.

        Raises:
            EvaluationError: memory ran out with a single question.
        """
        try:
            return self._answer_batch(run, watch, questions, inputs)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(questions) == 1:
                remedy = "use a machine with more memory, dtype=bfloat16, or fewer tokens"
                raise EvaluationError(
                    f"{questions[0].name}: out of memory with one question at a time; {remedy}"
                ) from error
        # outside of the except block, whose exception keeps the tensors of the batch alive
        self._largest = len(questions) // 2
        self.checkpoint.events.append({"event": "out of memory", "questions": len(questions), "then": self._largest})
        log.warning("out of memory with %d questions at a time; going on with %d", len(questions), self._largest)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _problem(self, question: Question) -> str | None:
        """Why a question cannot be asked, with the remedy."""
        if not question.text.strip():
            return "the prompt is empty; give the model a question"
        for placeholder in (getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video")):
            if placeholder and placeholder in question.text:
                between = "images and videos between words are not supported, they come before the text"
                return f"the text holds the placeholder {placeholder!r}; {between}"
        if question.videos and self._frames is None:
            remedy = "a backbone whose adapter says how many frames it takes, for example backbone=video_llava_7b"
            return f"{type(self.model).__name__} is asked no questions about videos; use {remedy}"
        if question.videos and self._smaller is not None:
            remedy = "use method=pool, or benchmarks without videos"
            return f"method {self.method.name!r} makes images smaller, not the frames of videos; {remedy}"
        missing = (video for video in question.videos if isinstance(video, str | Path) and not Path(video).is_file())
        return next((f"the video {video} is missing; put the file there" for video in missing), None)

    def _batches(self, questions: Sequence[Question]) -> Iterator[list[int]]:
        """Indices by batch: same generation settings, similar length, longest first so that memory runs out early.

        Length is in tokens: a batch of equally long prompts needs no padding, and its attention no mask.
        """
        lengths = [len(self.processor.tokenizer(q.text)["input_ids"]) for q in questions]
        keys = [
            (repr(sorted(q.generation.items())), -len(q.videos), -len(q.images), -length)
            for q, length in zip(questions, lengths, strict=True)
        ]
        order = sorted(range(len(questions)), key=lambda i: (*keys[i], i))
        start = 0
        while start < len(order):
            end = start + 1
            while end < min(len(order), start + self.batch_size) and keys[order[end]][0] == keys[order[start]][0]:
                end += 1
            yield order[start:end]
            start = end

    @torch.inference_mode()
    def _answer_batch(
        self, run: Run, watch: Stopwatch, questions: Sequence[Question], prepared: Inputs
    ) -> list[Answer]:
        inputs, preparing = prepared.result()
        started = time.perf_counter()
        inputs = inputs.to(self.model.device, self.model.dtype)
        until, settings = generation_settings(questions[0].generation)
        beams = settings["num_beams"]
        asks_oracle = getattr(getattr(self.method, "router", None), "name", None) == "oracle"
        if asks_oracle and all(question.category is not None for question in questions):
            run.oracle = [str(question.category) for question in questions for _ in range(beams)]
        run.trace = None
        before = self._seconds(watch)
        output = self.model.generate(**inputs, **settings)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        share = 1.0 / len(questions)
        changes = (after - start for after, start in zip(self._seconds(watch), before, strict=True))
        saved, vision, prefill, decode = changes
        total = time.perf_counter() - started + preparing
        seconds = Seconds(*(value * share for value in (vision + saved, prefill, decode, total + saved)))
        # each beam is a row of the prefill, and a question's beams follow each other, equal until they decode
        samples = run.trace.samples[::beams] if run.trace is not None else [None] * len(questions)
        kv_bytes = run.trace.kv_bytes * share if run.trace is not None else 0.0
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            Answer(
                text=cut(text, until),
                routed=sample.category if sample else None,
                entering=sample.visual_entering if sample and sample.images else (),
                leaving=sample.visual_leaving if sample and sample.images else (),
                nominal=sample.nominal if sample else 0.0,
                text_tokens=sample.text_tokens if sample else length,
                new_tokens=new_tokens,
                kv_bytes=kv_bytes,
                seconds=seconds,
            )
            for text, sample, length, new_tokens in zip(texts, samples, lengths, self._new_tokens(new), strict=True)
        ]

    def _new_tokens(self, new: torch.Tensor) -> list[int]:
        """Number of tokens of each row of (batch, new), its end token included; what follows that is padding."""
        ends = self.model.generation_config.eos_token_id
        if ends is None:  # generation stops at its length alone
            return [new.shape[1]] * len(new)
        ended = torch.isin(new, torch.tensor(ends, device=new.device)).long()
        return (ended.cumsum(dim=1) == ended).sum(dim=1).tolist()

    def _seconds(self, watch: Stopwatch) -> tuple[float, float, float, float]:
        """Seconds so far: saved by the ViT's cache, and spent in the ViT, in prefill, in decoding."""
        saved = 0.0 if self._vit_cache is None else self._vit_cache.saved_seconds
        return saved, watch.vision_seconds, watch.prefill_seconds, watch.decode_seconds

    def _inputs(self, questions: Sequence[Question]) -> Any:
        """Tensors of one batch, padded on the left, on the CPU; runs in the prefetcher's thread, on its own processor.

        Raises:
            EvaluationError: the processor refuses a question's images or videos; names it and the files.
        """
        try:
            return self._processed(questions)
        except (EvaluationError, MemoryError):  # the batch is too large, no question is wrong
            raise
        except Exception as error:
            if len(questions) > 1:  # one by one, so that the error names the question
                for question in questions:
                    self._inputs([question])
                raise
            (question,) = questions
            shown = ", ".join([*map(_described, question.images), *map(str, question.videos)]) or "text alone"
            raise EvaluationError(
                f"{question.name} ({shown}) is refused by {type(self._preparing).__name__}: "
                f"{error or type(error).__name__}; change the image or leave the question out"
            ) from error

    @torch.inference_mode()
    def _processed(self, questions: Sequence[Question]) -> Any:
        texts = []
        for q in questions:
            media = [{"type": "image"}] * len(q.images) + [{"type": "video"}] * len(q.videos)
            turn = {"role": "user", "content": [*media, {"type": "text", "text": q.text}]}
            messages = self._presentation.messages(turn)
            texts.append(self._preparing.apply_chat_template(messages, add_generation_prompt=True))
        # a list per question: LLaVA-OneVision cuts an image into crops only where it is the prompt's only one
        images = [[self._shown(image) for image in question.images] for question in questions]
        arguments: dict[str, Any] = {"images": images if any(images) else None}
        if clips := [self._clip(question, video) for question in questions for video in question.videos]:
            arguments["videos"] = [clip.frames for clip in clips]
            arguments |= {"video_metadata": [clip.metadata for clip in clips], "do_sample_frames": False}
        return self._preparing(text=texts, padding=True, padding_side="left", return_tensors="pt", **arguments)

    def _shown(self, image: Any) -> Any:
        shown = self._presentation.image(rgb(image), self._preparing)
        return shown if self._smaller is None else self._smaller(shown)

    def _clip(self, question: Question, video: Any) -> Clip:
        assert self._frames is not None
        try:
            return sample(video, self._frames)
        except VideoError as error:
            raise EvaluationError(f"{question.name}: {error}; put a whole file in its place") from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, on a GPU or the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def _described(image: Any) -> str:
    """An image for a message: its file, where it comes from one, and its size in pixels."""
    file, size = getattr(image, "filename", ""), getattr(image, "size", None)
    return " of ".join(filter(None, [str(file) or "an image", size and f"{size[0]} x {size[1]} pixels"]))


def generation_settings(task: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Stop strings and ``generate`` arguments from a task's ``generation_kwargs``; decoding is greedy or beam.

    Raises:
        EvaluationError: the task samples, asks for several answers, or has an unknown setting.
    """
    unknown = sorted(set(task) - _KNOWN)
    if unknown:
        raise EvaluationError(f"generation setting {unknown[0]!r} is not supported; use {', '.join(sorted(_KNOWN))}")
    if task.get("do_sample"):
        raise EvaluationError("do_sample=true is not supported: a sampled answer is not a result that can be repeated")
    if _whole(task, "num_return_sequences", 1) != 1:
        raise EvaluationError(
            f"num_return_sequences={task['num_return_sequences']} is not supported: a question has one answer that is "
            "scored; leave it out"
        )
    until = task.get("until") or ()
    until = (until,) if isinstance(until, str) else until
    if not isinstance(until, list | tuple) or not all(isinstance(stop, str) for stop in until):
        raise EvaluationError(f"generation setting until={until!r} is no text or list of texts")
    settings: dict[str, Any] = {"max_new_tokens": _whole(task, "max_new_tokens", MAX_NEW_TOKENS), "do_sample": False}
    settings["num_beams"] = _whole(task, "num_beams", 1)
    # a checkpoint's own sampling settings do not apply to greedy decoding, nor does its number of sequences: the best
    # of several beams is the answer
    return tuple(until), settings | dict.fromkeys(_SAMPLING) | {"num_return_sequences": 1}


def _whole(task: Mapping[str, Any], name: str, default: int) -> int:
    """A setting that counts something; 0 and null stand for ``default``."""
    value = task.get(name) or default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EvaluationError(f"generation setting {name}={value!r} is no whole number from 1 on")
    return value


def cut(text: str, until: Sequence[str]) -> str:
    """The answer up to its first stop string, without surrounding white space."""
    ends = [end for end in (text.find(stop) for stop in until if stop) if end >= 0]
    return text[: min(ends, default=len(text))].strip()
