"""URLs as they may be published: what a query or a user's name and password in one may open stays out.

A dataset's signed https address is as good as a key while it lasts, and provenance, audit and messages go where
everybody reads. Host and path stay: they say what was trained on.
"""

from __future__ import annotations

import re
from typing import Any

_URL = re.compile(r"(https?://)([^/?#]*)([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def redacted(text: str) -> str:
    """A URL of http or https without user, password, query and fragment; any other text as it is."""
    found = _URL.fullmatch(text)
    if found is None:
        return text
    scheme, authority, path, rest = found.groups()
    user, _, host = authority.rpartition("@")
    return f"{scheme}{'redacted@' if user else ''}{host}{path}{'?redacted' if rest else ''}"


def without_keys(value: Any) -> Any:
    """The same JSON with every text in it `redacted`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: without_keys(each) for name, each in value.items()}
    return [without_keys(each) for each in value] if isinstance(value, list) else value
