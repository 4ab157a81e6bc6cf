"""``key=value`` arguments become a dataclass's typed fields, or an error of one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from clasp.arguments import BAD_INPUT, parse, run
from clasp.strict import ConfigError


@dataclass(frozen=True)
class Example:
    name: str = "n"
    count: int = 3
    share: float | None = None
    sizes: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ()
    loud: bool = False
    mode: Literal["off", "on"] = "off"
    results: Path = Path("results")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("name=7", {"name": "7"}),
        ("name=a=b,c", {"name": "a=b,c"}),
        ("count=-7 loud=1 count=-8", {"count": -8, "loud": True}),  # the last one of a key counts
        ("share=2", {"share": 2.0}),
        ("sizes=4", {"sizes": (4,)}),
        ("sizes=4,5,6 names=a,b", {"sizes": (4, 5, 6), "names": ("a", "b")}),
        ("loud=0", {"loud": False}),
        ("mode=on", {"mode": "on"}),
        ("results=~/r", {"results": Path.home() / "r"}),
    ],
)
def test_each_type_is_read(typed: str, meant: dict[str, Any]) -> None:
    found = parse(Example, typed.split())
    assert found == Example(**meant)
    assert all(type(getattr(found, key)) is type(value) for key, value in meant.items())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("cuont=1", ["unknown key 'cuont'", "count, loud, mode", "did you mean count?"]),
        ("count=", ["count has no value", "leave it out"]),
        ("count=many", ["count='many' is not a whole number"]),
        ("count=" + "9" * 6000, ["is not a whole number", "6002 characters"]),
        ("count=1" + "0" * 400, ["count=", "is too large"]),
        ("share=half", ["share='half' is not a number"]),
        ("share=nan", ["share=nan is no number to calculate with"]),
        ("sizes=1,x", ["sizes='x' is not a whole number"]),
        ("loud=yes", ["loud='yes' is neither 1 nor 0", "loud=1"]),
        ("mode=of", ["mode='of' is unknown", "off, on"]),
        ("name=\0", ["characters that no text file holds"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(typed: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Example, lambda _: pytest.fail("it ran"), [typed], "usage") == BAD_INPUT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert [word for word in words if word not in said.err] == []


def test_what_main_returns_and_raises_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def refusing(asked: Example) -> int:
        raise ConfigError(f"count={asked.count} is not wanted")

    assert run(Example, lambda asked: asked.count, ["count=5"], "usage") == 5
    assert run(Example, refusing, [], "usage") == BAD_INPUT
    assert capsys.readouterr().err == "error: count=3 is not wanted\n"


@pytest.mark.parametrize("asked", [["-h"], ["--help"], ["count=many", "--help"]])
def test_help_is_the_usage_and_runs_nothing(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Example, lambda _: pytest.fail("it ran"), asked, "how to use it") == 0
    assert capsys.readouterr().out == "how to use it\n"


def test_a_key_without_a_default_is_wanted() -> None:
    @dataclass(frozen=True)
    class Needy:
        name: str

    with pytest.raises(ConfigError, match="'name' is missing"):
        parse(Needy, [])
