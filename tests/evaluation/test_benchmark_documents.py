"""Every published benchmark from its documents to its score, through lmms-eval's own functions and evaluator.

Nothing is fetched: the documents below have the fields of the data sets on the hub that lmms-eval or we read. The rest
is lmms-eval 0.7.3: its task index, prompts, scoring, aggregation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.tasks
import pytest
from evaluation_support import Configured
from lmms_eval.tasks import TaskManager
from PIL import Image

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


def pope(split: str, answer: str) -> dict[str, Any]:
    asked = {"question": "Is there a dog in the image?", "answer": answer, "image": IMAGE}
    return asked | {"question_id": "1", "category": split}


def scienceqa(hint: str) -> dict[str, Any]:
    asked = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": hint, "image": IMAGE}
    return asked | {"task": "closed choice", "category": "Materials"}


def vqav2(number: int, *answers: str) -> dict[str, Any]:
    voted = [{"answer": one, "answer_confidence": "yes", "answer_id": i + 1} for i, one in enumerate(answers)]
    asked = {"question_id": number, "question": "What color?", "image": IMAGE}
    return asked | {"answers": voted, "multiple_choice_answer": "red"}


FILES: dict[tuple[str, str | None], tuple[str, list[dict[str, Any]]]] = {
    ("GQA", "testdev_balanced_instructions"): (
        "testdev",
        [{"id": f"20{i}", "imageId": "n16", "question": "Is it red?", "answer": "yes"} for i in range(3)],
    ),
    ("GQA", "testdev_balanced_images"): ("testdev", [{"id": "n16", "image": IMAGE}]),
    ("MMBench", "en"): (
        "dev",
        [
            mmbench(5, "A", "cup", "dog"),
            mmbench(1_000_005, "B", "dog", "cup"),
            mmbench(6, "C", "cup", "dog", "hat"),
            mmbench(1_000_006, "A", "hat", "cup", "dog"),
        ],
    ),
    ("MME", None): (
        "test",
        [
            mme("color/1.png", "color", "Is it red?", "Yes"),
            mme("color/1.png", "color", "Is it blue?", "No"),
            mme("code/1.png", "code_reasoning", "Is it 1?", "Yes"),
            mme("code/1.png", "code_reasoning", "Is it 2?", "No"),
        ],
    ),
    ("POPE", None): (
        "test",
        [pope("adversarial", "yes"), pope("popular", "yes"), pope("random", "no"), pope("random", "no")],
    ),
    ("ScienceQA", "ScienceQA-IMG"): ("test", [scienceqa("Look."), scienceqa(""), scienceqa("")]),
    ("VQAv2", None): ("validation", [vqav2(1, *["red"] * 10), vqav2(2, *["red"] * 2, *["pink"] * 8)]),
    ("textvqa", None): (
        "validation",
        [
            {"question_id": 34602, "question": "what is it?", "image": IMAGE}
            | {"answers": ["dakota"] * 10, "ocr_tokens": ["DAKOTA", "DIGITAL"]}
        ],
    ),
    ("MMVet", None): (
        "test",
        [
            {"question_id": "v1_0", "image": IMAGE, "question": "What is x?", "answer": "-1<AND>-5"}
            | {"capability": "ocr,math"}
        ],
    ),
}
"""(name, configuration) of lmms-lab-encoder's data sets on the hub -> the split and documents that a task asks for."""


def load_dataset(path: str, name: str | None = None, split: str | None = None, **options: Any) -> Any:
    own, rows = FILES[path.removeprefix("lmms-lab-encoder/"), name]
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
        lm = ClaspModel.over(canned)
        results = lmms.evaluate(lm, benchmark, {})
        values = {key.partition(",")[0]: value for key, value in results["results"][benchmark.task].items()}
        rows = lmms.answer_records(results["samples"][benchmark.task], lm, benchmark)
        return canned.asked, sum(float(values[metric]) for metric in benchmark.metrics), json.loads(json.dumps(rows))

    return evaluate


MMBENCH_PROMPTS = [
    f"Which is red? {OPTIONS}\nA. cup\nB. dog\n{LETTER}",
    f"Which is red? {OPTIONS}\nA. dog\nB. cup\n{LETTER}",
    f"Which is red? {OPTIONS}\nA. cup\nB. dog\nC. hat\n{LETTER}",
    f"Which is red? {OPTIONS}\nA. hat\nB. cup\nC. dog\n{LETTER}",
]
MME_PROMPTS = [f"Is it {what}?{SHORT}" for what in ("red", "blue", "1", "2")]
POPE_PROMPTS = [f"Is there a dog in the image?{SHORT}"] * 4
SQA_PROMPTS = [f"Context: Look.\nWhich?\nA. x\nB. y{LETTER}", *[f"Which?\nA. x\nB. y{LETTER}"] * 2]
OCR_PROMPT = f"What is it?\nReference OCR token: DAKOTA, DIGITAL{SHORT}"

# benchmark, tokens that an answer may have, the model's answers, the prompts expected, the score, the right answers
CASES: list[tuple[str, int, list[str], list[str], float, list[Any]]] = [
    # lmms-eval's metric ignores case and punctuation
    ("gqa", 16, ["Yes.", "yes", "no"], [f"Is it red?{SHORT}"] * 3, 2 / 3, ["yes"] * 3),
    # the second is right as asked first and wrong as asked again: circular, so half of the two count
    ("mmbench", 1024, ["A", "B. cup", "C", "B"], MMBENCH_PROMPTS, 50.0, ["A", "B", "C", "A"]),
    # per category: accuracy plus share of images with both right, in percent: 200 and 50
    ("mme", 16, ["Yes", "No.", "Yes", "yes, it is"], MME_PROMPTS, 250.0, ["Yes", "No", "Yes", "No"]),
    # one of two found, one of two wrongly: precision and recall are both 1/2
    ("pope", 128, ["Yes", "no", "yes", "No"], POPE_PROMPTS, 0.5, ["yes", "yes", "no", "no"]),
    # lmms-eval takes "yes." for neither yes nor no, so that F1 does not count it
    ("pope", 128, ["Yes", "yes.", "no", "No"], POPE_PROMPTS, 1.0, ["yes", "yes", "no", "no"]),
    ("sqa", 16, ["B", "B. y", "y"], SQA_PROMPTS, 2 / 3, ["B"] * 3),
    # min(1, others that agree / 3), mean over the ten: 1, and (2 x 1/3 + 8 x 2/3) / 10
    ("vqav2", 16, ["Red", "red."], [f"What color?{SHORT}"] * 2, (1 + 0.6) / 2, ["red"] * 2),
    ("textvqa", 128, ["Dakota."], [f"What is it?{SHORT}"], 1.0, [["dakota"] * 10]),
    ("textvqa_ocr", 128, ["dakota digital"], [OCR_PROMPT], 0.0, [["dakota"] * 10]),
    ("mmvet", 1024, ["x = -1 or -5"], ["What is x?"], 1.0, ["-1<AND>-5"]),
]


@pytest.mark.parametrize(
    ("name", "length", "texts", "prompts", "score", "answers"), CASES, ids=[case[0] for case in CASES]
)
def test_from_documents_to_the_score(
    evaluated: Evaluate, name: str, length: int, texts: list[str], prompts: list[str], score: float, answers: list[Any]
) -> None:
    asked, found, rows = evaluated(name, texts)
    assert [question.text for question in asked] == prompts
    assert all([image.mode for image in question.images] == ["RGB"] for question in asked)
    assert found == pytest.approx(score)
    assert [row["answer"] for row in rows] == answers
    assert [row["prediction"] for row in rows] == texts
    for question in asked:  # greedy, and not ended at a blank line, which lmms-eval adds where a task is silent
        stops, settings = generation_settings(question.generation)
        greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        assert settings == {"max_new_tokens": length, **greedy, **dict.fromkeys(("temperature", "top_p", "top_k"))}
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


def test_every_benchmark_of_the_published_sets_is_checked_here(configured: Configured) -> None:
    checked = {name for name, *_ in CASES}
    for group in ("paper8", "mmvet", "pope"):
        assert set(configured(f"benchmarks={group}", "method=none").benchmarks.names) <= checked
