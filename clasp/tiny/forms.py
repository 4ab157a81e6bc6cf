"""The eight benchmark forms of the small world: the questions of each about a scene, and their wording.

They have the formats of the paper's eight (GQA, VQAv2, POPE, MME, MMBench, ScienceQA, TextVQA, MM-Vet), so that tables
have the same columns and metrics; their content is the small world's. Training uses the same forms on train scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from clasp.tiny import questions
from clasp.tiny.questions import Question, article, ask, pick
from clasp.tiny.scene import KIND_OF, KINDS, NAMES, Scene
from clasp.tiny.world import COMMON, USUAL

LETTERS = ("A", "B", "C", "D")
ANNOTATORS = 10
"""Number of answers per tiny_vqav2 or tiny_textvqa question, as in VQAv2."""
_AGREEMENT = 0.85
"""Probability that an annotator gives the true answer; otherwise one of the wrong answers."""
POPE_SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Item:
    """One row of a benchmark.

    Args:
        question: the complete question text.
        answer: the right answer.
        category: the question category.
        task: its part of the benchmark (POPE's split, MME's subtask, MM-Vet's capabilities, else the
            question's form).
        group: rows with the same group are scored together (MME's pairs, MMBench's rotations); counted per scene.
        answers: every annotator's answer, if the metric uses them.
        about: middle of the thing in question in pixels, or None.
    """

    question: str
    answer: str
    category: str
    task: str
    group: int = 0
    answers: tuple[str, ...] = field(default=())
    about: tuple[float, float] | None = None


Draw = Callable[[Scene, np.random.Generator], list[Item]]


def _mixed(**shares: float) -> Callable[[Scene, np.random.Generator], Question | None]:
    names, weights = list(shares), np.array(list(shares.values()))

    def draw(shown: Scene, rng: np.random.Generator) -> Question | None:
        return ask(shown, names[int(rng.choice(len(names), p=weights / weights.sum()))], rng)

    return draw


def _open(question: Question, answers: tuple[str, ...] = ()) -> Item:
    return Item(question.text, question.answer, question.category, question.form, answers=answers, about=question.about)


_gqa = _mixed(
    color_of=3,
    name_of=2,
    surface_of=1,
    relation=2,
    what_stands=2,
    side_of=1,
    is_placed=2,
    exists=1,
    is_colored=1,
    compare=1,
    place=1,
)


def gqa(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Compositional questions with short answers."""
    question = _gqa(shown, rng)
    return [_open(question)] if question else []


_vqa = _mixed(
    color_of=3,
    count=4,
    exists=2,
    is_colored=1,
    biggest=2,
    name_of=1,
    place=1,
    weather=1,
    light=1,
    can_do=1,
    most_common=1,
    used_for=1,
    side_of=1,
)


def annotated(question: Question, rng: np.random.Generator) -> tuple[str, ...]:
    """Ten annotators' answers, most of them the true one."""
    agree = rng.random(ANNOTATORS) < _AGREEMENT
    wrong = question.wrong or (question.answer,)
    return tuple(question.answer if yes else pick(rng, wrong) for yes in agree)


def vqav2(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Everyday questions with ten annotators' answers."""
    question = _vqa(shown, rng)
    return [_open(question, annotated(question, rng))] if question else []


def pope(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Whether a thing is there; absent things are drawn from all, from common ones, or from the place's usual ones."""
    split = pick(rng, POPE_SPLITS)
    absent = {"random": NAMES, "popular": COMMON, "adversarial": USUAL[shown.place]}[split]
    question = questions.exists(shown, rng, absent)
    if not question:
        return []
    name = question.text.rstrip("?").removesuffix(" in the image").split()[-1]
    return [Item(f"is there {article(name)} in the image?", question.answer, "general", split)]


SUBTASKS = {
    "existence": "exists",
    "count": "is_counted",
    "position": "is_placed",
    "color": "is_colored",
    "scene": "is_placed_at",
    "OCR": "says",
    "commonsense_reasoning": "can_do",
    "numerical_calculation": "is_added",
}
"""MME's subtasks in the small world and the form of each; the last two belong to cognition, the rest to perception."""


def mme(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """A pair of questions about one image, one with the answer yes, one with no."""
    task = pick(rng, tuple(SUBTASKS))
    found: dict[str, Question] = {}
    for _ in range(12):
        question = ask(shown, SUBTASKS[task], rng)
        if question:
            found.setdefault(question.answer, question)
        if len(found) == 2:
            pair = [found["yes"], found["no"]]
            order = rng.permutation(2)
            return [Item(pair[n].text, pair[n].answer, pair[n].category, task, about=pair[n].about) for n in order]
    return []


_choice = _mixed(
    color_of=2,
    name_of=2,
    count=2,
    what_stands=2,
    side_of=1,
    relation=1,
    place=1,
    weather=1,
    light=1,
    read_sign=2,
    biggest=1,
    surface_of=1,
    used_for=1,
)


def options(text: str, choices: list[str]) -> str:
    """A question with lettered options in MMBench's format, one per line."""
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{text}{listed}"


def _choices(question: Question, rng: np.random.Generator, count: int = 4) -> list[str]:
    """The right answer first, then up to ``count - 1`` wrong ones."""
    order = rng.permutation(len(question.wrong))[: count - 1]
    return [question.answer, *(question.wrong[n] for n in order)]


def mmbench(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """One question with its options in every rotation; it counts as right if all rotations are answered right."""
    question = _choice(shown, rng)
    if not question:
        return []
    choices = _choices(question, rng)
    choices = [choices[n] for n in rng.permutation(len(choices))]
    rows = []
    for shift in range(len(choices)):
        turned = choices[shift:] + choices[:shift]
        answer = LETTERS[turned.index(question.answer)]
        text = options(question.text, turned)
        rows.append(Item(text, answer, question.category, question.form, about=question.about))
    return rows


def sqa(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Multiple choice after a sentence of context; some questions need only knowledge, some need the image."""
    draw = pick(rng, (_kinds, _kinds, _purpose, _seen, _seen))
    found = draw(shown, rng)
    if not found:
        return []
    category, task, context, text, answer, wrong = found
    choices = [answer, *(wrong[n] for n in rng.permutation(len(wrong))[:3])]
    choices = [choices[n] for n in rng.permutation(len(choices))]
    asked = options(f"{context} {text}", choices)
    return [Item(asked, LETTERS[choices.index(answer)], category, task)]


_Science = tuple[str, str, str, str, str, tuple[str, ...]]
"""(category, task, context, question, answer, wrong answers)."""


def _kinds(_: Scene, rng: np.random.Generator) -> _Science:
    kind = pick(rng, tuple(KINDS))
    example, answer = (pick(rng, KINDS[kind]) for _ in range(2))
    wrong = tuple(name for name in NAMES if KIND_OF[name] != kind)
    what = "food" if kind == "food" else article(kind)
    return "general", "kinds", f"{article(example)} is {what}.", f"which of these is {what}?", answer, wrong


def _purpose(_: Scene, rng: np.random.Generator) -> _Science:
    use = pick(rng, tuple(questions.USES))
    names = questions.USES[use]
    wrong = tuple(name for name in NAMES if name not in names)
    return "general", "purpose", f"people want to {use}.", "which of these helps?", pick(rng, names), wrong


def _seen(shown: Scene, rng: np.random.Generator) -> _Science | None:
    present = sorted({thing.name for thing in shown.things})
    if not present:
        return None
    answer = pick(rng, present)
    wrong = tuple(name for name in NAMES if name not in present)
    context = pick(rng, ("someone took a picture.", "pictures show things.", "a camera saw this."))
    return "general", "seen", context, "which of these does the image show?", answer, wrong


_text = _mixed(read_sign=6, first_letter=1, sign_color=0.5)


def textvqa(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Questions about the text of signs."""
    question = _text(shown, rng)
    return [_open(question, (question.answer,) * ANNOTATORS)] if question else []


_CAPABILITIES = {
    "near_sign": "ocr, spatial",
    "sign_color": "ocr, recognition",
    "read_sign": "ocr",
    "add": "counting, math",
    "used_for": "recognition, knowledge",
    "what_stands": "recognition, spatial",
    "biggest": "recognition",
    "most_common": "recognition, counting",
    "weather": "recognition",
    "count": "counting",
}
_vet = _mixed(
    near_sign=3,
    sign_color=1,
    read_sign=2,
    add=2,
    used_for=2,
    what_stands=2,
    biggest=1,
    most_common=1,
    weather=1,
    count=1,
)


def mmvet(shown: Scene, rng: np.random.Generator) -> list[Item]:
    """Questions that need several capabilities."""
    question = _vet(shown, rng)
    if not question:
        return []
    task = _CAPABILITIES[question.form]
    return [Item(question.text, question.answer, question.category, task, about=question.about)]


BENCHMARKS: dict[str, Draw] = {
    "tiny_gqa": gqa,
    "tiny_vqav2": vqav2,
    "tiny_pope": pope,
    "tiny_mme": mme,
    "tiny_mmbench": mmbench,
    "tiny_sqa": sqa,
    "tiny_textvqa": textvqa,
    "tiny_mmvet": mmvet,
}
"""Rows of each benchmark for one scene: one or more, or none if the scene does not fit."""
