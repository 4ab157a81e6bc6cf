"""An OpenAI-compatible chat endpoint, named by the environment: one conversation in, one reply out. Torch-free.

Neither the key nor the address is ever shown: messages, logs and files name only the model and the problem.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from clasp.strict import ConfigError

BASE_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
KEY_VARIABLE = "OPENAI_API_KEY"
MODEL_VARIABLE = "CLASP_JUDGE_MODEL"
DEFAULT_BASE = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-2024-11-20"
"""A dated snapshot, the one that lmms-eval 0.7.3 judges with."""

_REFUSED = frozenset([401, 403, 404])


@dataclass(frozen=True)
class Endpoint:
    """Address, key and model; address and key are left out of its ``repr``."""

    model: str
    base: str = field(default=DEFAULT_BASE, repr=False)
    key: str | None = field(default=None, repr=False)


class JudgeError(RuntimeError):
    """No reply came, or a cell stays unjudged; ``hopeless`` where the next request would fail in the same way."""

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
        url = urlsplit(base)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:  # a port that is no number, an address in brackets that is none
        return False


class Chat:
    """Asks one endpoint, from any number of threads. A context manager that closes its connections.

    OpenAI's client retries where that can help (no connection, a busy or failing server), after pauses that double or
    that the server asks for.

    Args:
        endpoint: address, key and model.
        attempts: tries per request.
        timeout: seconds to wait for a reply.
    """

    def __init__(self, endpoint: Endpoint, attempts: int = 5, timeout: float = 120.0) -> None:
        from openai import Omit, OpenAI

        for chatty in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):  # they log addresses
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.endpoint, self._attempts = endpoint, attempts
        self._client = OpenAI(
            api_key=endpoint.key or "none",
            base_url=endpoint.base,
            max_retries=attempts - 1,
            timeout=timeout,
            default_headers=None if endpoint.key else {"Authorization": Omit()},  # type: ignore[dict-item]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes the connections; requests that wait for their next try fail then."""
        self._client.close()

    def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's reply at temperature 0; should a server repeat the key in it, the key is masked.

        Raises:
            JudgeError: no reply came.
        """
        import openai

        # no limit of new tokens: the name of that setting differs between servers, and the replies asked for are short
        body: Any = {"model": self.endpoint.model, "messages": list(messages), "temperature": 0}
        try:
            completion = self._client.chat.completions.create(**body)
            content = completion.choices[0].message.content
        except openai.APIStatusError as error:  # whose message may repeat the key
            problem = f"HTTP {error.status_code}"
            raise JudgeError(problem, hopeless=error.status_code in _REFUSED) from None
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise JudgeError(f"no connection ({cause}) after {self._attempts} tries") from None
        except (openai.OpenAIError, ValueError, IndexError, TypeError, AttributeError) as error:
            raise JudgeError(f"the reply is no chat completion ({type(error).__name__})") from None
        if not isinstance(content, str):
            raise JudgeError("the reply is no chat completion (it has no text)")
        return content.replace(self.endpoint.key, "[key]") if self.endpoint.key else content
