"""How many violations an answer can carry: details travel in HTTP/2 trailers, which are bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlplane.domain.errors import Violation

#: Tags and lengths of one `FieldViolation` with three fields, and its own.
_OVERHEAD_BYTES = 12


def fit(violations: Sequence[Violation], max_bytes: int = 6 * 1024) -> tuple[tuple[Violation, ...], int]:
    """The first violations that fit, and how many were left out.

    Bytes are those of `google.rpc.BadRequest`, rounded up; base64 and the status around it are not counted. At least
    one is kept, whatever its size.
    """
    used = 0
    for index, violation in enumerate(violations):
        used += _OVERHEAD_BYTES + sum(
            len(text.encode(errors="replace")) for text in (violation.field, violation.reason, violation.description)
        )
        if used > max_bytes and index:
            return tuple(violations[:index]), len(violations) - index
    return tuple(violations), 0
