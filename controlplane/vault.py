"""Secrets at rest and in transit. Nothing here ever writes one in clear.

One master key (32 bytes, in a 0600 file outside the database) gives, by keyed BLAKE2b, a key each for sealing, for the
HMACs that tell a changed repeat, and for webhook signing secrets. A sealed value carries the key's id, and is bound to
its job:

    key id (8) | nonce (24) | XChaCha20-Poly1305 of the JSON, job uid as associated data

Source: libsodium's AEAD and sealed boxes, through PyNaCl.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets as random
from typing import TYPE_CHECKING

from nacl.exceptions import CryptoError
from nacl.public import PublicKey, SealedBox
from nacl.secret import Aead

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEY_BYTES = 32
_KEY_ID_BYTES = 8


class MasterKeyError(Exception):
    """The master key's file is missing, readable by others, or no key."""


def read_master_key(path: Path) -> bytes:
    """Reads the key, or makes it where there is none (0600, never replaced).

    Raises:
        MasterKeyError: the file is readable by others, or does not hold 32 bytes in base64.
    """
    if not path.exists():
        _make_master_key(path)
    if path.stat().st_mode & 0o077:
        raise MasterKeyError(f"{path} can be read by others; say: chmod 600 {path}")
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise MasterKeyError(f"{path} does not hold 32 bytes in base64; say: openssl rand -base64 32")
    return key


def _make_master_key(path: Path) -> None:
    """Whole or not at all, also if the machine fails now: what is sealed under a key that is gone is gone, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{random.token_hex(8)}")
    descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(random.token_bytes(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its key it is
            os.link(aside, path)
    finally:
        aside.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class MasterVault:
    """Implements `ports.Vault` under one master key."""

    def __init__(self, master_key: bytes) -> None:
        def derived(use: bytes) -> bytes:
            return hashlib.blake2b(use, key=master_key, digest_size=_KEY_BYTES, person=b"trainplane").digest()

        self._box = Aead(derived(b"seal"))
        self._mac_key = derived(b"mac")
        self._signing_key = derived(b"sign")
        self._key_id = hashlib.blake2b(master_key, digest_size=_KEY_ID_BYTES, person=b"trainplane-id").digest()

    def seal(self, secrets: Mapping[str, str], *, uid: str) -> bytes:
        """Seals for storing; bound to the job's uid. Empty for no secrets."""
        if not secrets:
            return b""
        return self._key_id + bytes(self._box.encrypt(json.dumps(dict(secrets)).encode(), uid.encode()))

    def open(self, sealed: bytes, *, uid: str) -> dict[str, str]:
        """Opens what `seal` made for this uid.

        Raises:
            ValueError: altered, another job's, or sealed under another master key.
        """
        if not sealed:
            return {}
        if sealed[:_KEY_ID_BYTES] != self._key_id:
            raise ValueError("sealed under another master key")
        try:
            opened = self._box.decrypt(sealed[_KEY_ID_BYTES:], uid.encode())
        except (CryptoError, ValueError) as error:
            raise ValueError("sealed secrets were altered, or are another job's") from error
        found: dict[str, str] = json.loads(opened)
        return found

    def seal_to(self, public_key: bytes, secrets: Mapping[str, str]) -> bytes:
        """Seals to a node's X25519 key. Empty for no secrets.

        Raises:
            ValueError: this is no such key.
        """
        if not secrets:
            return b""
        try:
            return bytes(SealedBox(PublicKey(public_key)).encrypt(json.dumps(dict(secrets)).encode()))
        except (CryptoError, TypeError) as error:
            raise ValueError("a node's public key must be 32 bytes") from error

    def mac_key(self) -> bytes:
        """The key of the secrets' HMACs."""
        return self._mac_key

    def signing_secret(self, uid: str) -> str:
        """The job's `whsec_…` secret: 24 bytes derived from its uid, so there is nothing to store."""
        key = hashlib.blake2b(uid.encode(), key=self._signing_key, digest_size=24).digest()
        return "whsec_" + base64.b64encode(key).decode()
