"""Page sizes and opaque page tokens."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from controlplane.domain.errors import InvalidArgument

#: What a text in a token is made of: a uid, and nothing that a database would refuse.
_PLAIN = re.compile(r"[0-9A-Za-z]{1,64}")
#: An answer's bytes as protobuf: JSON of it stays under the gateway's buffer, and under gRPC's 4 MiB.
MAX_BYTES = 512 * 1024


def size(asked: int, *, default: int, largest: int) -> int:
    """The page size to use: 0 means the default, more than the largest means the largest.

    Raises:
        InvalidArgument: it is negative.
    """
    if asked < 0:
        raise InvalidArgument(field="page_size", reason="OUT_OF_RANGE", description="must not be negative")
    return min(asked or default, largest)


def token(*position: int | str) -> str:
    """An opaque token for a position."""
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def position(text: str, *kinds: type) -> tuple[Any, ...] | None:
    """What `token` was given, of these types; None for an empty token.

    Raises:
        InvalidArgument: it is none of ours.
    """
    if not text:
        return None
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, list)
        or [type(part) for part in found] != list(kinds)
        or not all(_PLAIN.fullmatch(part) if isinstance(part, str) else 0 <= part < 2**53 for part in found)
    ):
        raise InvalidArgument(
            field="page_token",
            reason="INVALID_PAGE_TOKEN",
            description="is not a token of ours; pass next_page_token of the page before, unchanged",
        )
    return tuple(found)
