"""NATS' own JSON web tokens: an operator vouches for accounts, an account for users; the server checks signatures only.

Ours, because the one Python library calls itself not well tested, and all that is needed is a page: Ed25519 keys by
`nkeys`, NATS' own library, and claims as https://github.com/nats-io/jwt (version 2) defines them. See docs/adr/0007.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nkeys

if TYPE_CHECKING:
    from datetime import datetime

    from trainplane.wire.permissions import Permissions

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_VERSION = 2
_UNLIMITED = -1
#: What every account may do: anything, bounded by the permissions of its users.
_ACCOUNT_LIMITS = {
    "subs": _UNLIMITED,
    "data": _UNLIMITED,
    "payload": _UNLIMITED,
    "imports": _UNLIMITED,
    "exports": _UNLIMITED,
    "wildcards": True,
    "conn": _UNLIMITED,
    "leaf": _UNLIMITED,
}
#: What lets an account hold streams. Memory stays 0: ours lie on disk.
_JETSTREAM_LIMITS = {"disk_storage": _UNLIMITED, "streams": _UNLIMITED, "consumer": _UNLIMITED}


@dataclass(frozen=True, slots=True)
class Key:
    """An Ed25519 key in NATS' text form. Its seed is a secret and is never shown."""

    _pair: Any

    @classmethod
    def operator(cls) -> Key:
        """A new operator key."""
        return cls._new(nkeys.PREFIX_BYTE_OPERATOR)

    @classmethod
    def account(cls) -> Key:
        """A new account key, for an account's identity or for signing its users."""
        return cls._new(nkeys.PREFIX_BYTE_ACCOUNT)

    @classmethod
    def user(cls) -> Key:
        """A new user key."""
        return cls._new(nkeys.PREFIX_BYTE_USER)

    @classmethod
    def _new(cls, prefix: int) -> Key:
        return cls.from_seed(nkeys.encode_seed(os.urandom(32), prefix).decode())

    @classmethod
    def from_seed(cls, seed: str) -> Key:
        """The key of a seed (`S…`).

        Raises:
            ValueError: it is none.
        """
        try:
            return cls(nkeys.from_seed(bytearray(seed.encode())))
        except nkeys.NkeysError as error:
            raise ValueError("not the seed of a NATS key") from error

    @property
    def public(self) -> str:
        """The name that others know it by (`O…`, `A…`, `U…`)."""
        return str(self._pair.public_key.decode())

    @property
    def seed(self) -> str:
        """The secret."""
        return str(self._pair.seed.decode())

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`."""
        return bytes(self._pair.sign(data))

    def __repr__(self) -> str:
        return f"Key({self.public})"


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _encode(claims: dict[str, Any], *, signer: Key, now: datetime) -> str:
    """Signs claims; the token's id is a digest of what it says, as NATS' own tools make it."""
    claims = {**claims, "iss": signer.public, "iat": int(now.timestamp())}
    digest = hashlib.sha256(json.dumps(claims, sort_keys=True).encode()).digest()
    claims["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (_HEADER, claims))
    return b".".join((signed, _base64url(signer.sign(signed)))).decode()


def operator(key: Key, *, name: str, system_account: Key, now: datetime) -> str:
    """The operator's token, signed by itself: the server trusts this key and what follows from it."""
    nats = {"type": "operator", "version": _VERSION, "system_account": system_account.public}
    return _encode({"sub": key.public, "name": name, "nats": nats}, signer=key, now=now)


@dataclass(frozen=True, slots=True)
class Account:
    """An account: users of different accounts never hear each other."""

    name: str
    key: Key
    signing_key: Key | None = None
    """Signs its users, so that the identity's key is needed only here."""
    jetstream: bool = False


def account(of: Account, *, signer: Key, now: datetime) -> str:
    """An account's token, signed by the operator."""
    limits = {**_ACCOUNT_LIMITS, **(_JETSTREAM_LIMITS if of.jetstream else {})}
    nats: dict[str, Any] = {"type": "account", "version": _VERSION, "limits": limits}
    if of.signing_key is not None:
        nats["signing_keys"] = [of.signing_key.public]
    return _encode({"sub": of.key.public, "name": of.name, "nats": nats}, signer=signer, now=now)


@dataclass(frozen=True, slots=True)
class User:
    """A user of an account."""

    name: str
    key: Key
    permissions: Permissions
    expires: datetime | None = None
    bearer: bool = False
    """True: who shows the token is believed without proof of its key. Only for what anyone may do."""
    sources: tuple[str, ...] = ()
    """Networks it may connect from; empty: any."""


def user(of: User, *, account: Key, signer: Key, now: datetime) -> str:
    """A user's token, signed by a signing key of its account."""
    nats: dict[str, Any] = {
        "type": "user",
        "version": _VERSION,
        "issuer_account": account.public,
        "pub": {"allow": list(of.permissions.publish)} if of.permissions.publish else {"deny": [">"]},
        "sub": {"allow": list(of.permissions.subscribe)} if of.permissions.subscribe else {"deny": [">"]},
        "subs": _UNLIMITED,
        "data": _UNLIMITED,
        "payload": _UNLIMITED,
    }
    if of.bearer:
        nats["bearer_token"] = True
    if of.sources:
        nats["src"] = list(of.sources)
    claims: dict[str, Any] = {"sub": of.key.public, "name": of.name, "nats": nats}
    if of.expires is not None:
        claims["exp"] = int(of.expires.timestamp())
    return _encode(claims, signer=signer, now=now)
