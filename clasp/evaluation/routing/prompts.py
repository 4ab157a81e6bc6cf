"""Labelled prompts that routers are measured on: two sets of our own, and the small world's questions.

Written for this project: ``unseen`` in the manner of the public benchmarks, wrapped in their templates as lmms-eval
sends them, and ``wordings`` as people ask in words of their own, most of it without a template. A question belongs to
the category of what must be found to answer it: a property of a thing, a number of things, written text, a position or
relation, the place, time or weather; everything else (existence, actions, identity, knowledge, reasoning, description)
is ``general``.

No prototype (:mod:`clasp.methods.clasp.prototypes`) was made for an error on any of these sets. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clasp.tiny.forms import BENCHMARKS
from clasp.tiny.world import generator, scene

WORLD_SCENES = 60
"""Scenes of the world's test split whose questions are collected, one of each benchmark."""


@dataclass(frozen=True)
class Prompt:
    """One labelled prompt as a model gets it; ``style`` names how it is phrased."""

    text: str
    category: str
    style: str


_LETTER = "{}\nAnswer with the option's letter from the given choices directly."
_SHORT = "{}\nAnswer the question using a single word or phrase."

STYLES: Mapping[str, str] = {
    "short": _SHORT,
    "choice": _LETTER,
    "yes_no": "{} Please answer yes or no.",
    "plain": "{}",
    "tokens": _SHORT,
    "hint": _LETTER,
    "reasoned": "First please perform reasoning, and think step by step to provide best answer to the following "
    "question: \n\n{}",
    "video": _SHORT,
}
"""What each style puts around a question, which comes with its hint, options and OCR tokens."""


def written_prompts(split: str) -> tuple[Prompt, ...]:
    """Our own prompts of a split of ``prompts.jsonl``, ``unseen`` or ``wordings``, in the file's order."""
    lines = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        Prompt(_dressed(**line), line["category"], line["style"])
        for line in map(json.loads, lines)
        if line["split"] == split
    )


def _dressed(
    style: str, text: str, hint: str | None = None, options: Sequence[str] = (), tokens: str | None = None, **_: str
) -> str:
    lines = [
        *([hint] if hint else []),
        text,
        *(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)),
        *([f"Reference OCR token: {tokens}"] if tokens else []),
    ]
    return STYLES[style].format("\n".join(lines))


def world_prompts(scenes: int = WORLD_SCENES) -> tuple[Prompt, ...]:
    """The different questions that the small world asks about its first test scenes, each once, as it sends them.

    They are rows of its benchmarks; of a pair the first question, of a choice the first rotation.
    """
    found: dict[str, Prompt] = {}
    for index in range(scenes):
        shown = scene("test", index)
        for purpose, form in enumerate(BENCHMARKS.values(), start=1):
            for item in form(shown, generator("test", index, purpose))[:1]:
                found.setdefault(item.question, Prompt(item.question, item.category, "world"))
    return tuple(found.values())


SETS: Mapping[str, Callable[[], tuple[Prompt, ...]]] = {
    "unseen": partial(written_prompts, "unseen"),
    "wordings": partial(written_prompts, "wordings"),
    "world": world_prompts,
}
"""The sets that routers are measured on."""


def prompts_hash(prompts: tuple[Prompt, ...]) -> str:
    """Names the texts and labels of a set, in order."""
    content = json.dumps([[prompt.text, prompt.category] for prompt in prompts]).encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()[:24]}"
