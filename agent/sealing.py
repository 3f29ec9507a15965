"""Secrets on their way to this agent: sealed to a key that lives and dies with the process, opened in memory only."""

from __future__ import annotations

import json

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox


class SealError(Exception):
    """The sealed secrets cannot be opened. Says nothing about their content."""


class SealingKey:
    """An X25519 key pair of this process."""

    def __init__(self) -> None:
        self._private = PrivateKey.generate()

    @property
    def public(self) -> bytes:
        """The 32 bytes that secrets are sealed to."""
        return bytes(self._private.public_key)

    def open(self, sealed: bytes) -> dict[str, str]:
        """Spec path to secret; empty for empty input.

        Raises:
            SealError: it was sealed to another key, altered, or is no JSON object.
        """
        if not sealed:
            return {}
        try:
            secrets = json.loads(SealedBox(self._private).decrypt(sealed))
        except (CryptoError, ValueError) as error:
            # The cause could quote what was opened.
            raise SealError(f"sealed secrets cannot be opened ({type(error).__name__})") from None
        if not isinstance(secrets, dict):
            raise SealError("sealed secrets are no JSON object")
        return {str(path): str(secret) for path, secret in secrets.items()}
