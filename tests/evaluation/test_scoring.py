"""What counts as the same answer."""

from __future__ import annotations

import pytest

from clasp.evaluation.tasks.scoring import doc_to_text, normalise, process_results


@pytest.mark.parametrize(
    ("prediction", "answer", "score"),
    [
        ("Red.", "red", 1.0),
        ("  the  red ", "red", 1.0),
        ("A", "a", 1.0),
        ("top-left", "top left", 1.0),
        ("reddish", "red", 0.0),
        ("red or blue", "red", 0.0),
        ("", "red", 0.0),
        ("an", "a", 0.0),
        ("B", "8", 0.0),
        ("theta", "ta", 0.0),
    ],
)
def test_exact_match_after_normalisation(prediction: str, answer: str, score: float) -> None:
    assert process_results({"answer": answer}, [prediction]) == {"exact_match": score}


def test_normalisation_is_idempotent_and_never_empties_a_word() -> None:
    for text in ("The quick, brown fox!", "a", "A an the", "ÉCOLE"):
        assert normalise(normalise(text)) == normalise(text) != ""


def test_the_prompt_is_the_bare_question() -> None:
    assert doc_to_text({"question": "what is written?"}) == "what is written?"
