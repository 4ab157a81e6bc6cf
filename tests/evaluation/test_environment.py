"""Environment variables that libraries would stumble over are one sentence before anything is loaded."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from clasp.cli import jobs
from clasp.evaluation.environment import _COUNTS, check_environment
from clasp.strict import ConfigError

BAD = {
    **{name: ["", " ", "two", "1.5", "0x1", "-7", "1e3", "nan"] for name in _COUNTS},
    "WORLD_SIZE": ["0", "2", "zwei"],
    "RANK": ["", "two", "-1", "1"],
    "ACCELERATE_USE_CPU": ["", "maybe", "2", "None", "of"],
    "ACCELERATE_USE_FSDP": ["yes please"],
    "ACCELERATE_DEBUG_MODE": ["?"],
    "ACCELERATE_MIXED_PRECISION": ["float32", ""],
    "LMMS_EVAL_PLUGINS": ["no_such_package", "json", "..", "a b", ".x", "os,no_such_package", "x" * 5000],
}
GOOD = {
    "RANK": ["0"],
    "LOCAL_RANK": ["-1", "0", "3"],
    "WORLD_SIZE": ["1"],
    "ACCELERATE_USE_CPU": ["true", "0", "Off", "YES"],
    "ACCELERATE_MIXED_PRECISION": ["bf16", "no"],
    "LMMS_EVAL_PLUGINS": ["", "lmms_eval"],
    "OMP_NUM_THREADS": ["4,2"],
    "UNRELATED": ["?"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_a_library_stumbles_over_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_environment({name: value})
    assert name in str(caught.value)
    assert value[:80] in str(caught.value)
    assert re.search("whole number|one of|packages|one process computes", str(caught.value))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_what_they_can_read_is_not(name: str, value: str) -> None:
    check_environment({name: value})


def test_libraries_read_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's own readers, which raise ValueError for what they cannot read."""
    from accelerate.utils.environment import get_int_from_env, parse_flag_from_env

    draw = random.Random(0)
    letters, passed = "0123456789 -+.eExyntruefalsyo_", 0
    for _ in range(3000):
        value = "".join(draw.choices(letters, k=draw.randint(0, 4)))
        for name, read in (("PMI_SIZE", lambda: get_int_from_env(["PMI_SIZE"], 1)), ("ACCELERATE_USE_CPU", None)):
            monkeypatch.setenv(name, value)
            try:
                check_environment({name: value})
            except ConfigError:
                continue
            read() if read else parse_flag_from_env(name)
            passed += 1
    assert passed > 50


def test_a_run_ends_with_one_sentence_and_imports_nothing(
    composed_run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "first")
    monkeypatch.setattr(jobs, "_values", lambda composed: composed)
    monkeypatch.setitem(sys.modules, "clasp.evaluation.plan", None)  # whose import would raise
    values = composed_run("method=random", "tokens=64", "benchmarks.names=[tiny_textvqa]", "limit=2")
    assert jobs.main(jobs.run_job, lambda each: each(values)) == jobs.BAD_INPUT
    assert "error: the environment variable LOCAL_RANK='first' is to be a whole number" in capsys.readouterr().err
