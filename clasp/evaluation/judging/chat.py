"""An OpenAI-compatible chat endpoint, named by the environment: one conversation in, one reply out. Torch-free.

Neither the key nor the address is ever shown: messages, logs and files name the model and what went wrong, no more.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from clasp.strict import ConfigError

BASE_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
KEY_VARIABLE = "OPENAI_API_KEY"
MODEL_VARIABLE = "CLASP_JUDGE_MODEL"
DEFAULT_BASE = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-2024-11-20"
"""A dated snapshot, the one that lmms-eval 0.7.3 judges with."""

_TRY_AGAIN = frozenset([408, 409, 425, 429, 500, 502, 503, 504, 529])
_REFUSED = frozenset([401, 403, 404])
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Endpoint:
    """Address, key and model; address and key are left out of its ``repr``."""

    model: str
    base: str = field(default=DEFAULT_BASE, repr=False)
    key: str | None = field(default=None, repr=False)


class RequestFailed(RuntimeError):
    """No reply came; ``hopeless`` where the next request would fail in the same way."""

    def __init__(self, reason: str, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


def endpoint() -> Endpoint | None:
    """The endpoint that the environment names; None where neither an address nor a key is set.

    Raises:
        ConfigError: the address or the key cannot be one; the message does not repeat it.
    """
    bases = {name: value for name in BASE_VARIABLES if (value := os.environ.get(name, "").strip())}
    key = os.environ.get(KEY_VARIABLE, "").strip() or None
    if not bases and key is None:
        return None
    name, base = next(iter(bases.items()), ("", DEFAULT_BASE))
    if not _is_address(base):
        raise ConfigError(f"{name} is no address; set it to one that begins with http:// or https:// and ends with /v1")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{KEY_VARIABLE} holds characters that no key has; set it again, without quotes or spaces")
    return Endpoint(os.environ.get(MODEL_VARIABLE, "").strip() or DEFAULT_MODEL, base, key)


def _is_address(base: str) -> bool:
    try:
        url = httpx.URL(base)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


class Chat:
    """Asks one endpoint, from any number of threads. A context manager that closes its connections.

    Args:
        endpoint: where.
        attempts: tries of one request, where trying again can help: no connection, a busy or failing server.
        pause: seconds before the second try, doubled before each further one; a server's ``Retry-After`` counts more.
        timeout: seconds to wait for a reply.
    """

    def __init__(self, endpoint: Endpoint, attempts: int = 5, pause: float = 1.0, timeout: float = 120.0) -> None:
        for chatty in ("httpx", "httpcore"):  # they log addresses
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.endpoint, self._attempts, self._pause = endpoint, attempts, pause
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx.Client(base_url=endpoint.base, headers=headers, timeout=timeout)
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Requests that wait for their next try give up."""
        self._stopped.set()

    def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's reply at temperature 0, the key masked in it should a server ever repeat it.

        Raises:
            RequestFailed: no reply came.
        """
        # no limit of new tokens: the name of that setting differs between servers, and the replies asked for are short
        body = {"model": self.endpoint.model, "messages": list(messages), "temperature": 0}
        for attempt in range(1, self._attempts + 1):
            asked_to_wait = 0.0
            try:
                response = self._client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"no connection ({type(error).__name__})"
            else:
                if response.status_code == httpx.codes.OK:
                    return self._masked(_content(response))
                problem = f"HTTP {response.status_code}"
                if response.status_code not in _TRY_AGAIN:
                    raise RequestFailed(problem, hopeless=response.status_code in _REFUSED)
                asked_to_wait = _seconds(response.headers.get("retry-after", ""))
            wait = max(asked_to_wait, self._pause * 2 ** (attempt - 1))
            if attempt < self._attempts and self._stopped.wait(min(wait, _LONGEST_PAUSE)):
                raise RequestFailed(f"{problem}, then stopped")
        raise RequestFailed(f"{problem} after {self._attempts} tries")

    def _masked(self, text: str) -> str:
        return text.replace(self.endpoint.key, "[key]") if self.endpoint.key else text


def _content(response: httpx.Response) -> str:
    try:
        content: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RequestFailed(f"the reply is no chat completion ({type(error).__name__})") from None
    if not isinstance(content, str):
        raise RequestFailed("the reply is no chat completion (it has no text)")
    return content


def _seconds(header: str) -> float:
    """A ``Retry-After`` header in seconds; 0 where it is absent or a date."""
    return float(header) if header.isascii() and header.isdigit() else 0.0
