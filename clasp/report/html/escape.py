"""Text from results files made safe to show: answers, questions and names may hold anything a file can hold.

The template escapes markup; this is about characters that escaping lets through.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

LONGEST = 600
"""Characters of a question or answer that are shown."""
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, without tab and newline
    "\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff"  # invisible, or turning the text's direction
    "\ud800-\udfff\ufffe\uffff]"  # halves of surrogate pairs, which no encoding can write, and no characters at all
)


def visible(value: object) -> str:
    """``value`` as text in which every character that cannot be seen or written is named, such as ``[U+0000]``."""
    return _HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", str(value))


def shortened(value: object, longest: int = LONGEST) -> str:
    """``value`` as visible text, cut after ``longest`` characters, which it then says."""
    text = visible(value)
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest} more characters)"


def script_data(value: Any) -> Markup:
    """JSON that may stand in a ``<script>`` element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"))  # ASCII, so also free of line separators and half surrogates
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
