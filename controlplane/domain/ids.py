"""Unique ids that sort by the time of their making (ULID: 48 bits of milliseconds, 80 random ones, in base 32).

Source: the ULID specification. Time and randomness come in, so that tests know what comes out.
"""

from __future__ import annotations

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


def ulid(now_us: int, random: int) -> str:
    """26 characters.

    Args:
        now_us: microseconds since the Unix epoch.
        random: 80 random bits.
    """
    number = ((now_us // 1000) << 80) | (random & ((1 << 80) - 1))
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])
