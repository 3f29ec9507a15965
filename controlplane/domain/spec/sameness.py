"""When two specs are the same: as parsed, before defaults, null = absent, numbers by value, secrets included.

Before defaults, because an upgrade may add one, and a repeat of yesterday's request must still be the same job.
Secrets are compared by a keyed MAC, so that they need not be kept.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical(sent: dict[str, Any]) -> str:
    """The JSON text of a checked spec's `sent`, whose keys have one order: the same text for the same spec."""
    return _ENCODER.encode(sent)


def secret_macs(secrets: dict[str, str], key: bytes) -> dict[str, str]:
    """HMAC-SHA256 of each secret, in hex, by path. The path is part of it: the same token elsewhere is another MAC."""
    return {path: hmac.digest(key, f"{path}\0{value}".encode(), "sha256").hex() for path, value in secrets.items()}


def same(
    a_sent: dict[str, Any], a_secret_macs: dict[str, str], b_sent: dict[str, Any], b_secret_macs: dict[str, str]
) -> list[str]:
    """The paths at which two specs differ, sorted; none: they are the same.

    Of two arrays with different lengths, the array's own path; of an object that only one has, the object's.
    """
    differing = set(_differing(a_sent, b_sent, ""))
    for path in a_secret_macs.keys() | b_secret_macs.keys():
        if not hmac.compare_digest(a_secret_macs.get(path, ""), b_secret_macs.get(path, "")):
            differing.add(path)
    return sorted(differing)


def _differing(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        dot = f"{path}." if path else ""
        return [found for key in a.keys() | b.keys() for found in _differing(a.get(key), b.get(key), dot + key)]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            found
            for index, (left, right) in enumerate(zip(a, b, strict=True))
            for found in _differing(left, right, f"{path}[{index}]")
        ]
    # True == 1 in Python, but not in JSON.
    return [] if a == b and isinstance(a, bool) == isinstance(b, bool) else [path]
