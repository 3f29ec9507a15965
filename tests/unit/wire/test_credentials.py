from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nkeys
import pytest

from trainplane.wire import permissions
from trainplane.wire.credentials import Installation, load, load_or_create
from trainplane.wire.jwt import Key

if TYPE_CHECKING:
    from pathlib import Path


def opened(token: str, *, signer: str) -> dict[str, Any]:
    """The claims of a token whose signature is verified with the signer's public key."""
    signed, signature = token.rsplit(".", 1)
    raw = base64.b32decode(signer)[1:33]
    key = nkeys.nacl.signing.VerifyKey(raw)
    key.verify(signed.encode(), base64.urlsafe_b64decode(signature + "=="))
    return json.loads(base64.urlsafe_b64decode(signed.split(".")[1] + "=="))


def token_and_seed(credentials: str) -> tuple[str, str]:
    lines = credentials.splitlines()
    return (
        lines[lines.index("-----BEGIN NATS USER JWT-----") + 1],
        lines[lines.index("-----BEGIN USER NKEY SEED-----") + 1],
    )


@pytest.fixture
def keys() -> Installation:
    return Installation.new()


def test_the_operator_signs_itself_and_both_accounts(keys: Installation) -> None:
    trust = keys.trust(anonymous=False)
    operator = opened(trust.operator, signer=keys.operator.public)
    assert (operator["sub"], operator["iss"]) == (keys.operator.public, keys.operator.public)
    assert operator["nats"]["system_account"] == trust.system_account == keys.system.public
    assert [key for key, _ in trust.accounts] == [keys.system.public, keys.account.public]
    for public, token in trust.accounts:
        assert opened(token, signer=keys.operator.public)["sub"] == public


def test_only_our_account_holds_streams_and_the_system_account_holds_none(keys: Installation) -> None:
    system, ours = (
        opened(token, signer=keys.operator.public)["nats"] for _, token in keys.trust(anonymous=False).accounts
    )
    assert "disk_storage" not in system["limits"]
    assert ours["limits"]["disk_storage"] == -1
    assert ours["signing_keys"] == [keys.signing.public]


def test_a_node_credential_is_signed_by_the_signing_key_and_holds_the_key_it_names(keys: Installation) -> None:
    token, seed = token_and_seed(keys.mint_node("gpu-01"))
    claims = opened(token, signer=keys.signing.public)
    assert claims["nats"]["issuer_account"] == keys.account.public
    assert claims["sub"] == Key.from_seed(seed).public
    assert claims["nats"]["pub"] == {"allow": list(permissions.node("gpu-01").publish)}
    assert claims["nats"]["sub"] == {"allow": list(permissions.node("gpu-01").subscribe)}
    assert "exp" not in claims
    assert "bearer_token" not in claims["nats"]


def test_an_expiring_credential_says_when_in_whole_seconds(keys: Installation) -> None:
    expires = datetime(2030, 1, 2, 3, 4, 5, 600_000, UTC)
    token, _ = token_and_seed(keys.mint_node("gpu-01", expires=expires))
    assert opened(token, signer=keys.signing.public)["exp"] == int(expires.timestamp())


def test_two_credentials_of_one_node_share_nothing(keys: Installation) -> None:
    assert token_and_seed(keys.mint_node("gpu-01"))[1] != token_and_seed(keys.mint_node("gpu-01"))[1]


def test_the_anonymous_reader_is_a_bearer_from_loopback_only_and_only_if_asked_for(keys: Installation) -> None:
    assert keys.trust(anonymous=False).anonymous == ""
    claims = opened(keys.trust(anonymous=True).anonymous, signer=keys.signing.public)["nats"]
    assert claims["bearer_token"] is True
    assert claims["src"] == ["127.0.0.0/8", "::1/128"]
    assert not any("events" in subject for subject in claims["pub"]["allow"])


def test_no_seed_shows_in_what_the_server_is_told_or_in_a_repr(keys: Installation) -> None:
    told = repr(keys) + repr(keys.trust(anonymous=True))
    for key in (keys.operator, keys.system, keys.account, keys.signing):
        assert key.seed not in told
        assert key.public in told or key is keys.signing


def test_keys_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data" / "nats-keys.json"
    made = load_or_create(path)
    again = load_or_create(path)
    assert again.operator.seed == made.operator.seed
    assert again.signing.public == made.signing.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["nats-keys.json"]


def test_keys_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nats-keys.json"
    load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        load(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"operator":"x"}', '{"operator":1}'])
def test_a_file_that_holds_no_keys_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nats-keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="holds no NATS keys"):
        load(path)


def test_a_cut_seed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nats-keys.json"
    load_or_create(path)
    path.write_text(path.read_text().replace('"SO', '"SX'))
    with pytest.raises(ValueError, match="holds no NATS keys"):
        load(path)


def test_there_are_no_keys_to_load_before_they_were_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nats-keys.json")


def test_tokens_differ_in_their_id_where_they_differ_in_content(keys: Installation) -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    tokens = [token_and_seed(keys.mint_node(name, expires=expires))[0] for name in ("a", "b")]
    ids = {opened(token, signer=keys.signing.public)["jti"] for token in tokens}
    assert len(ids) == 2
