"""What must not leave this machine, taken out of text: the user's home folder, tokens, keys and passwords. Torch-free.

Text for others to read passes here first: commands, failures, reports' titles, W&B runs, logs, what is printed. What is
signed never does: an identity holds no path and no secret, and must not depend on the environment.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pwd
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any

HIDDEN, HOME = "***", "~"

SHORTEST = 8
"""Characters of the shortest value that counts as a secret: a shorter one would be found inside ordinary words."""

_SECRET = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASSW(OR)?D|CREDENTIAL", re.IGNORECASE)
_PLACE = re.compile(r"(_FILE|_PATH|_DIR|_HOME|_URL|_SOCK)$", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]*|[A-Z]*")
"""A word in one letter case; values made of such (``output_average``, ``not-needed``) stand in ordinary text too."""

_FORMATS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)"  # name and password in an address
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{30,}"
)
"""Secrets that show by their form, wherever they were typed: in an address, of Hugging Face, OpenAI and GitHub."""


def redact(text: str) -> str:
    """``text`` with ``~`` for the home folder and ``***`` for secrets.

    Secrets are the values of environment variables whose names hold TOKEN, KEY, SECRET, PASSWORD or CREDENTIAL
    (``HF_TOKEN``, ``WANDB_API_KEY``, ``OPENAI_API_KEY``, ...), of at least :data:`SHORTEST` characters and unlike words
    (:data:`_WORD`), and what looks like one (:data:`_FORMATS`).
    """
    secrets, homes = _rules(frozenset(os.environ.items()))
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _FORMATS.sub(HIDDEN, text)
    return homes.sub(HOME, text) if homes is not None else text


def redacted(values: Any) -> Any:
    """Nested plain values with every text in them redacted, keys included; a path becomes a text."""
    if isinstance(values, str | PurePath):
        return redact(str(values))
    if isinstance(values, Mapping):
        return {redacted(key): redacted(value) for key, value in values.items()}
    return type(values)(map(redacted, values)) if isinstance(values, list | tuple) else values


class Redacting(logging.Filter):
    """Redacts what a handler writes, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = redact(record.exc_text) if record.exc_text else record.exc_text
        return True


def redact_logs() -> None:
    """From now on everything that the root logger's handlers write, to files and to the screen, is redacted."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, Redacting) for known in handler.filters):
            handler.addFilter(Redacting())


class RedactingStream(io.TextIOWrapper):
    """A stream that takes another's place, and redacts every write: libraries print past the logging of Python."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, stream.encoding, stream.errors, write_through=True)
        self._replaced = stream  # which would close the file with its own end

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def redact_streams() -> None:
    """From now on what is printed is redacted, tracebacks included: a job's output is a file that others read."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, RedactingStream(getattr(sys, name)))


@lru_cache(maxsize=4)
def _rules(environment: frozenset[tuple[str, str]]) -> tuple[list[str], re.Pattern[str] | None]:
    """Secrets to hide, and what finds the home folder; looked at for each call, for programs change their variables."""
    variables = dict(environment)
    return _secrets(variables), _homes(variables.get("HOME", ""))


def _secrets(variables: Mapping[str, str]) -> list[str]:
    """Longest first, so that one that holds another is taken out whole."""
    named = {value.strip() for name, value in variables.items() if _SECRET.search(name) and not _PLACE.search(name)}
    unlike_words = (value for value in named if not all(map(_WORD.fullmatch, re.split(r"[\W_]+", value))))
    return sorted((value for value in unlike_words if len(value) >= SHORTEST), key=len, reverse=True)


def _homes(home: str) -> re.Pattern[str] | None:
    """The home folder as the environment and as the user database name it, and what each really is.

    Others whose names begin alike are not meant.
    """
    named = [home]
    with contextlib.suppress(KeyError):  # a user without an entry, as in containers
        named.append(pwd.getpwuid(os.getuid()).pw_dir)
    absolute = [name for name in named if name.startswith("/")]
    folders = {folder.rstrip("/") for name in absolute for folder in (name, os.path.realpath(name))} - {""}
    longest_first = sorted(folders, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?![\\w-])") if folders else None
