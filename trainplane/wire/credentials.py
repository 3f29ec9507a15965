"""An installation's NATS keys, and the credentials minted from them.

    operator ──signs──► SYSTEM      nobody connects as it; the server wants one that holds no stream
             └─signs──► TRAINPLANE ──signing key──► control plane, each node, anonymous readers

The server knows the operator and the two accounts; users are nowhere in its configuration. So a new node, and a
credential that expires with an attempt, need no change and no reload of the server (docs/adr/0007).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trainplane.wire import jwt, permissions
from trainplane.wire.jwt import Key

if TYPE_CHECKING:
    from pathlib import Path

    from trainplane.wire.permissions import Permissions

OPERATOR = "trainplane"
SYSTEM = "SYSTEM"
ACCOUNT = "TRAINPLANE"
#: Where anonymous readers may connect from.
LOOPBACK = ("127.0.0.0/8", "::1/128")

_CREDENTIALS = """\
-----BEGIN NATS USER JWT-----
{token}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


@dataclass(frozen=True, slots=True)
class Trust:
    """What a server must know to check any user: public, without a secret."""

    operator: str
    """The operator's token."""
    system_account: str
    """The system account's public key."""
    accounts: tuple[tuple[str, str], ...]
    """Public key and token of each account."""
    anonymous: str
    """The token of who shows none, from the loopback network only; empty: nobody gets in without one."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The keys of one installation. Whoever has them can be any user; they stand in one file of mode 0600."""

    operator: Key
    system: Key
    account: Key
    signing: Key

    @classmethod
    def new(cls) -> Installation:
        """Keys that nobody had before."""
        return cls(Key.operator(), Key.account(), Key.account(), Key.account())

    def trust(self, *, anonymous: bool) -> Trust:
        """What to tell the server; `anonymous` lets loopback clients without credentials read events."""
        now = datetime.now(UTC)
        system = jwt.Account(SYSTEM, self.system)
        ours = jwt.Account(ACCOUNT, self.account, self.signing, jetstream=True)
        return Trust(
            operator=jwt.operator(self.operator, name=OPERATOR, system_account=self.system, now=now),
            system_account=self.system.public,
            accounts=tuple((one.key.public, jwt.account(one, signer=self.operator, now=now)) for one in (system, ours)),
            anonymous=self._anonymous(now) if anonymous else "",
        )

    def _anonymous(self, now: datetime) -> str:
        reader = jwt.User("anonymous", Key.user(), permissions.anonymous(), bearer=True, sources=LOOPBACK)
        return jwt.user(reader, account=self.account, signer=self.signing, now=now)

    def mint_user(self, name: str, allowed: Permissions, *, expires: datetime | None = None) -> str:
        """A new user's credentials, as the text of a `.creds` file: a secret.

        Args:
            name: shown in the server's log; proves nothing.
            allowed: what it may publish and hear.
            expires: when the server ends its connections and accepts no new ones (whole seconds); None: never.
        """
        key = Key.user()
        token = jwt.user(
            jwt.User(name, key, allowed, expires), account=self.account, signer=self.signing, now=datetime.now(UTC)
        )
        return _CREDENTIALS.format(token=token, seed=key.seed)

    def mint_node(self, node: str, *, expires: datetime | None = None) -> str:
        """Credentials of an agent for this node's name; see `mint_user`.

        Raises:
            ValueError: the name is no subject token.
        """
        return self.mint_user(node, permissions.node(node), expires=expires)

    def mint_control_plane(self) -> str:
        """Credentials of the control plane; see `mint_user`."""
        return self.mint_user("control plane", permissions.control_plane())


def load_or_create(path: Path) -> Installation:
    """The installation's keys from a file, which is made where it is missing: whole or not at all, mode 0600.

    Two processes that make it at once end up with the same keys.

    Raises:
        ValueError: the file holds no such keys.
        PermissionError: others may read it.
    """
    if not path.exists():
        _write_new(path, Installation.new())
    return load(path)


def load(path: Path) -> Installation:
    """The keys that `load_or_create` stored.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the file holds no such keys.
        PermissionError: others may read it.
    """
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} holds secret keys and others may read it; chmod 600 {path}")
    try:
        seeds = json.loads(path.read_text(encoding="ascii"))
        return Installation(**{field.name: Key.from_seed(seeds[field.name]) for field in fields(Installation)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no NATS keys of an installation") from error


def _write_new(path: Path, keys: Installation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seeds = {field.name: getattr(keys, field.name).seed for field in fields(Installation)}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    write_secret(aside, json.dumps(seeds, indent=1) + "\n")
    try:
        os.link(aside, path)
    except FileExistsError:
        pass  # someone else was first: theirs counts
    finally:
        aside.unlink()


def write_secret(path: Path, text: str) -> None:
    """Writes a new file that only its owner may read, durably.

    Raises:
        FileExistsError: there is one.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
