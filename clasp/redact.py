"""Removes the user's home folder, tokens, keys and passwords from text. Torch-free.

Everything that others may read is redacted: commands, failures, titles of reports, W&B runs, logs, printed output. What
goes into a signature is not: it holds no path and no secret, and must not depend on the environment.
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
"""Characters of the shortest value that counts as a secret; shorter ones occur inside ordinary words."""

_SECRET = re.compile(r"TOKEN(?!IZER)|KEY|SECRET|PASSW(OR)?D|CREDENTIAL", re.IGNORECASE)
_PLACE = re.compile(r"(_FILE|_PATH|_DIR|_HOME|_URL|_SOCK)$", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]*|[A-Z]*")
"""A word in one letter case; values made of such words (``output_average``, ``not-needed``) are not secrets."""

_FORMATS = re.compile(
    r"(?<=://)[^/\s@'\"]+(?=@)"  # name and password in a URL
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{30,}"
)
"""Secrets recognisable by their form: in URLs, and of Hugging Face, OpenAI and GitHub."""


def redact(text: str) -> str:
    """Replaces the home folder by ``~`` and secrets by ``***``.

    Secrets are the values of environment variables whose names contain TOKEN, KEY, SECRET, PASSWORD or CREDENTIAL
    (``HF_TOKEN``, ``WANDB_API_KEY``, ``OPENAI_API_KEY``, ...), if they have at least :data:`SHORTEST` characters and do
    not consist of words (:data:`_WORD`); and everything that matches :data:`_FORMATS`.
    """
    secrets, homes = _rules(frozenset(os.environ.items()))
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _FORMATS.sub(HIDDEN, text)
    return homes.sub(HOME, text) if homes is not None else text


def redacted(values: Any) -> Any:
    """Nested plain values with every text redacted, keys included; a path becomes a text."""
    if isinstance(values, str | PurePath):
        return redact(str(values))
    if isinstance(values, Mapping):
        return {redacted(key): redacted(value) for key, value in values.items()}
    return type(values)(map(redacted, values)) if isinstance(values, list | tuple) else values


class Redacting(logging.Filter):
    """Redacts the records of a log handler, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_text = redact(record.exc_text) if record.exc_text else record.exc_text
        return True


def redact_logs() -> None:
    """Makes the root logger's handlers redact everything that they write."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, Redacting) for known in handler.filters):
            handler.addFilter(Redacting())


class RedactingStream(io.TextIOWrapper):
    """Replaces a stream and redacts every write, for libraries that print without Python's logging."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, stream.encoding, stream.errors, write_through=True)
        self._replaced = stream  # kept, because it closes the file when it is deleted

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def redact_streams() -> None:
    """Redacts everything printed from now on, tracebacks included: others can read the log file of a job."""
    for name in ("stdout", "stderr"):
        setattr(sys, name, RedactingStream(getattr(sys, name)))


@lru_cache(maxsize=4)
def _rules(environment: frozenset[tuple[str, str]]) -> tuple[list[str], re.Pattern[str] | None]:
    """The secrets in an environment, and a pattern of its home folder; cached, as :func:`redact` is called often."""
    variables = dict(environment)
    return _secrets(variables), _homes(variables.get("HOME", ""))


def _secrets(variables: Mapping[str, str]) -> list[str]:
    """Values to hide, longest first, so that one that contains another is removed whole."""
    named = {value.strip() for name, value in variables.items() if _SECRET.search(name) and not _PLACE.search(name)}
    unlike_words = (value for value in named if not all(map(_WORD.fullmatch, re.split(r"[\W_]+", value))))
    return sorted((value for value in unlike_words if len(value) >= SHORTEST), key=len, reverse=True)


def _homes(home: str) -> re.Pattern[str] | None:
    """Matches the home folder as named by the environment and by the user database, with symbolic links resolved.

    Folders whose names only begin with its name do not match.
    """
    named = [home]
    with contextlib.suppress(KeyError):  # a user without an entry, as in containers
        named.append(pwd.getpwuid(os.getuid()).pw_dir)
    absolute = [name for name in named if name.startswith("/")]
    folders = {folder.rstrip("/") for name in absolute for folder in (name, os.path.realpath(name))} - {""}
    longest_first = sorted(folders, key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, longest_first))})(?![\\w-])") if folders else None
