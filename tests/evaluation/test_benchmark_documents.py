"""Every published benchmark from its documents to its score, through lmms-eval's own functions and evaluator.

Documents have the fields of the data sets on the hub (their cards; lmms-eval's functions read no others), the rest is
lmms-eval 0.7.3: its task index, prompts, scoring, aggregation. Nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.tasks
import pytest
from lmms_eval.tasks import TaskManager
from PIL import Image

from clasp.config import RunConfig
from clasp.evaluation import lmms
from clasp.evaluation.benchmarks import BENCHMARKS, TASKS
from clasp.evaluation.generation.answering import Answer, Question, Seconds, generation_settings
from clasp.evaluation.model import ClaspModel
from clasp.report.metrics import sampled

IMAGE = Image.new("RGBA", (40, 30), (255, 0, 0, 255))
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
OPTIONS = "There are several options:"


def mmbench(index: int, answer: str, *options: str) -> dict[str, Any]:
    four = dict(zip("ABCD", [*options, "nan", "nan"][:4], strict=True))
    about = {"category": "object_localization", "source": "own", "L2-category": "finegrained", "split": "dev"}
    common = {"index": index, "question": "Which is red?", "hint": "nan", "answer": answer, "comment": "nan"}
    return common | four | about | {"image": IMAGE}


def mme(image: str, category: str, question: str, answer: str) -> dict[str, Any]:
    text = f"{question} Please answer yes or no."
    return {"question_id": image, "image": IMAGE, "question": text, "answer": answer, "category": category}


def pope(row: int, split: str, answer: str) -> dict[str, Any]:
    about = {"id": str(row), "question_id": "1", "image_source": "COCO_val2014_1", "category": split}
    return about | {"question": "Is there a dog in the image?", "answer": answer, "image": IMAGE}


def voted(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": one, "answer_confidence": "yes", "answer_id": i + 1} for i, one in enumerate(answers)]


FILES: dict[tuple[str, str | None], tuple[str, list[dict[str, Any]]]] = {
    ("lmms-lab-encoder/GQA", "testdev_balanced_instructions"): (
        "testdev",
        [
            {"id": f"20{i}", "imageId": "n16", "question": "Is it red?", "answer": "yes", "fullAnswer": "Yes, it is."}
            for i in range(3)
        ],
    ),
    ("lmms-lab-encoder/GQA", "testdev_balanced_images"): ("testdev", [{"id": "n16", "image": IMAGE}]),
    ("lmms-lab-encoder/MMBench", "en"): (
        "dev",
        [
            mmbench(5, "A", "cup", "dog"),
            mmbench(1_000_005, "B", "dog", "cup"),
            mmbench(6, "C", "cup", "dog", "hat"),
            mmbench(1_000_006, "A", "hat", "cup", "dog"),
        ],
    ),
    ("lmms-lab-encoder/MME", None): (
        "test",
        [
            mme("color/1.png", "color", "Is it red?", "Yes"),
            mme("color/1.png", "color", "Is it blue?", "No"),
            mme("code/1.png", "code_reasoning", "Is it 1?", "Yes"),
            mme("code/1.png", "code_reasoning", "Is it 2?", "No"),
        ],
    ),
    ("lmms-lab-encoder/POPE", None): (
        "test",
        [
            pope(i, split, answer)
            for i, (split, answer) in enumerate(
                [("adversarial", "yes"), ("popular", "yes"), ("random", "no"), ("random", "no")]
            )
        ],
    ),
    ("lmms-lab-encoder/ScienceQA", "ScienceQA-IMG"): (
        "test",
        [
            {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": hint, "image": IMAGE}
            | {"task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "physics"}
            | {"category": "Materials", "skill": "Compare", "lecture": "", "solution": ""}
            for hint in ("Look.", "", "")
        ],
    ),
    ("lmms-lab-encoder/VQAv2", None): (
        "validation",
        [
            {"question_type": "what color", "multiple_choice_answer": "red", "answer_type": "other", "image_id": 262148}
            | {"answers": answers, "question_id": 262148000 + i, "question": "What color?", "image": IMAGE}
            for i, answers in enumerate([voted(*["red"] * 10), voted(*["red"] * 2, *["pink"] * 8)])
        ],
    ),
    ("lmms-lab-encoder/textvqa", None): (
        "validation",
        [
            {"image_id": "003a", "question_id": 34602, "question": "what is it?", "question_tokens": ["what"]}
            | {"image": IMAGE, "image_width": 40, "image_height": 30, "flickr_original_url": "", "set_name": "val"}
            | {"answers": ["dakota"] * 10, "image_classes": ["Camera"], "ocr_tokens": ["DAKOTA", "DIGITAL"]}
        ],
    ),
    ("lmms-lab-encoder/MMVet", None): (
        "test",
        [
            {"question_id": "v1_0", "image": IMAGE, "question": "What is x?", "answer": "-1<AND>-5"}
            | {"image_source": "own", "capability": "ocr,math"}
        ],
    ),
}
"""(path, configuration) on the hub -> the split and documents that a task asks for, with their fields."""


def load_dataset(path: str, name: str | None = None, split: str | None = None, **options: Any) -> Any:
    own, rows = FILES[path, name]
    found = datasets.DatasetDict({own: datasets.Dataset.from_list(rows)})
    return found if split is None else found[split]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    """lmms-eval's index of the tasks in question alone: that of all takes seconds."""
    root = Path(lmms_eval.tasks.__file__).parent
    folders = [str(root / name) for name in ("gqa", "mme", "pope", "scienceqa", "vqav2")]
    return TaskManager(include_path=[*folders, str(TASKS)], include_defaults=False)


class Canned:
    """Answers the questions with given texts, in their order; keeps what was asked."""

    batch_size = 1

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.asked = texts, list[Question]()

    def answer(self, questions: Sequence[Question], advance: object) -> list[Answer]:
        self.asked = list(questions)
        for question in questions:
            generation_settings(question.generation)  # raises on a setting that is not known
        none = Seconds(0.0, 0.0, 0.0, 0.0)
        return [Answer(text, None, (), (), 0.0, 1, 1, 0.0, none) for text in self.texts[: len(questions)]]


Evaluate = Callable[[str, Sequence[str]], tuple[list[Question], float, list[dict[str, Any]]]]


@pytest.fixture
def evaluated(manager: TaskManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Evaluate:
    """Name of a benchmark and texts to answer with -> questions as asked, score, lines of the answers file."""
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("lmms_eval.tasks.gqa.utils.load_dataset", load_dataset, raising=False)
    monkeypatch.setattr(lmms, "_task_manager", lambda built_in: manager)
    monkeypatch.chdir(tmp_path)

    def evaluate(name: str, texts: Sequence[str]) -> tuple[list[Question], float, list[dict[str, Any]]]:
        benchmark, canned = BENCHMARKS[name], Canned(texts)
        lm = ClaspModel.over(canned)  # type: ignore[arg-type]
        results = lmms.evaluate(lm, benchmark, {})
        values = {key.partition(",")[0]: value for key, value in results["results"][benchmark.task].items()}
        rows = lmms.answer_records(results["samples"][benchmark.task], lm, benchmark)
        return canned.asked, sum(float(values[metric]) for metric in benchmark.metrics), json.loads(json.dumps(rows))

    return evaluate


LENGTHS = {
    "gqa": 16,
    "mmbench": 1024,
    "mme": 16,
    "pope": 128,
    "sqa": 16,
    "vqav2": 16,
    "textvqa": 128,
    "textvqa_ocr": 128,
    "mmvet": 1024,
}
"""Tokens that an answer may have."""


@pytest.mark.parametrize(
    ("name", "texts", "prompts", "score", "answers"),
    [
        # lmms-eval's metric ignores case and punctuation
        pytest.param("gqa", ["Yes.", "yes", "no"], [f"Is it red?{SHORT}"] * 3, 2 / 3, ["yes"] * 3, id="gqa"),
        # the second is right as asked first and wrong as asked again: circular, so half of the two count
        pytest.param(
            "mmbench",
            ["A", "B. cup", "C", "B"],
            [
                f"Which is red? {OPTIONS}\nA. cup\nB. dog\n{LETTER}",
                f"Which is red? {OPTIONS}\nA. dog\nB. cup\n{LETTER}",
                f"Which is red? {OPTIONS}\nA. cup\nB. dog\nC. hat\n{LETTER}",
                f"Which is red? {OPTIONS}\nA. hat\nB. cup\nC. dog\n{LETTER}",
            ],
            50.0,
            ["A", "B", "C", "A"],
            id="mmbench",
        ),
        # per category: accuracy plus share of images with both right, in percent: 200 and 50
        pytest.param(
            "mme",
            ["Yes", "No.", "Yes", "yes, it is"],
            [f"Is it {what}?{SHORT}" for what in ("red", "blue", "1", "2")],
            250.0,
            ["Yes", "No", "Yes", "No"],
            id="mme",
        ),
        # one of two found, one of two wrongly: precision and recall are both 1/2; "yes." is neither yes nor no
        pytest.param(
            "pope", ["Yes", "no", "yes", "No"], [f"Is there a dog in the image?{SHORT}"] * 4, 0.5,
            ["yes", "yes", "no", "no"], id="pope",
        ),
        pytest.param(
            "pope", ["Yes", "yes.", "no", "No"], [f"Is there a dog in the image?{SHORT}"] * 4, 1.0,
            ["yes", "yes", "no", "no"], id="pope-other",
        ),
        pytest.param(
            "sqa",
            ["B", "B. y", "y"],
            [f"Context: Look.\nWhich?\nA. x\nB. y{LETTER}", *[f"Which?\nA. x\nB. y{LETTER}"] * 2],
            2 / 3,
            ["B"] * 3,
            id="sqa",
        ),
        # min(1, others that agree / 3), mean over the ten: 1, and (2 x 1/3 + 8 x 2/3) / 10
        pytest.param(
            "vqav2", ["Red", "red."], [f"What color?{SHORT}"] * 2, (1 + 0.6) / 2, ["red"] * 2, id="vqav2"
        ),
        pytest.param("textvqa", ["Dakota."], [f"What is it?{SHORT}"], 1.0, [["dakota"] * 10], id="textvqa"),
        pytest.param(
            "textvqa_ocr",
            ["dakota digital"],
            [f"What is it?\nReference OCR token: DAKOTA, DIGITAL{SHORT}"],
            0.0,
            [["dakota"] * 10],
            id="textvqa_ocr",
        ),
        pytest.param("mmvet", ["x = -1 or -5"], ["What is x?"], 1.0, ["-1<AND>-5"], id="mmvet"),
    ],
)  # fmt: skip
def test_from_documents_to_the_score(
    evaluated: Evaluate, name: str, texts: list[str], prompts: list[str], score: float, answers: list[Any]
) -> None:
    asked, found, rows = evaluated(name, texts)
    assert [question.text for question in asked] == prompts
    assert all([image.mode for image in question.images] == ["RGB"] for question in asked)
    assert found == pytest.approx(score)
    assert [row["answer"] for row in rows] == answers
    assert [row["prediction"] for row in rows] == texts
    for question in asked:  # greedy, and not ended at a blank line, which lmms-eval adds where a task is silent
        stops, settings = generation_settings(question.generation)
        assert settings == {
            "max_new_tokens": LENGTHS[name],
            "do_sample": False,
            "num_beams": 1,
            "num_return_sequences": 1,
            **dict.fromkeys(("temperature", "top_p", "top_k")),
        }
        assert stops == (("ASSISTANT:",) if name == "mmbench" else ())
        # MME's "color" and POPE's "random" are no question categories, which the router oracle would read
        assert question.category == ("counting" if name == "mmvet" else None)
    if name in ("mme", "pope", "sqa", "mmbench"):
        assert all(row["category"] for row in rows), "a data set's own groups stay in the answers file"
    if name not in ("mmbench", "mmvet"):  # circular, and judged: no function of single answers
        again = sampled(BENCHMARKS[name].metric, rows, found)
        assert again is not None
        assert again.score() == pytest.approx(score)
    assert not list(Path.cwd().glob("submissions*")), "nothing is written into the current folder"


def test_every_benchmark_of_the_published_sets_is_checked_here(configured: Callable[..., RunConfig]) -> None:
    paths = {path for path, _ in FILES}
    for group in ("paper8", "mmvet", "pope"):
        names = configured(f"benchmarks={group}", "method=none").benchmarks.names
        assert set(names) <= set(LENGTHS)
    assert len(paths) == len(LENGTHS) - 1, "a data set for each; TextVQA's is asked in two ways"
