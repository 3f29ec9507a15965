"""Secrets at rest and in transit: what opens, what does not, and where the key lies."""

from __future__ import annotations

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey, SealedBox

from controlplane.vault import MasterKeyError, MasterVault, read_master_key

VAULT = MasterVault(b"k" * 32)
SECRETS = {"base_model.auth_token": "hf_canary", "callbacks.auth_header": "Bearer ü\n"}


def test_what_was_sealed_opens_for_its_job():
    sealed = VAULT.seal(SECRETS, uid="u1")
    assert VAULT.open(sealed, uid="u1") == SECRETS
    assert b"canary" not in sealed
    assert MasterVault(b"k" * 32).open(sealed, uid="u1") == SECRETS  # after a restart


def test_sealing_twice_gives_different_bytes():
    assert VAULT.seal(SECRETS, uid="u1") != VAULT.seal(SECRETS, uid="u1")


def test_no_secrets_are_no_bytes():
    assert VAULT.seal({}, uid="u1") == b""
    assert VAULT.open(b"", uid="u1") == {}
    assert VAULT.seal_to(b"not even looked at", {}) == b""


def test_another_job_s_uid_opens_nothing():
    with pytest.raises(ValueError, match="another job's"):
        VAULT.open(VAULT.seal(SECRETS, uid="u1"), uid="u2")


def test_another_master_key_is_told_by_its_id():
    with pytest.raises(ValueError, match="another master key"):
        MasterVault(b"x" * 32).open(VAULT.seal(SECRETS, uid="u1"), uid="u1")


@given(st.data())
def test_any_altered_or_cut_byte_is_noticed(data):
    sealed = bytearray(VAULT.seal(SECRETS, uid="u1"))
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del sealed[data.draw(st.integers(1, len(sealed) - 1)) :]
    with pytest.raises(ValueError, match="sealed"):
        VAULT.open(bytes(sealed), uid="u1")


def test_a_node_s_key_opens_what_was_sealed_to_it_and_no_other_does():
    key, other = PrivateKey.generate(), PrivateKey.generate()
    sealed = VAULT.seal_to(bytes(key.public_key), SECRETS)
    assert json.loads(SealedBox(key).decrypt(sealed)) == SECRETS
    with pytest.raises(Exception, match="error"):
        SealedBox(other).decrypt(sealed)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33, bytes(32)], ids=["empty", "short", "long", "zero"])
def test_a_public_key_that_is_none_is_refused(key):
    with pytest.raises(ValueError, match="public key"):
        VAULT.seal_to(key, SECRETS)


def test_derived_keys_differ_from_each_other_and_from_another_master_key_s():
    other = MasterVault(b"x" * 32)
    assert VAULT.mac_key() != other.mac_key()
    assert VAULT.signing_secret("u1") == MasterVault(b"k" * 32).signing_secret("u1")
    assert len({VAULT.signing_secret("u1"), VAULT.signing_secret("u2"), other.signing_secret("u1")}) == 3
    assert len(base64.b64decode(VAULT.signing_secret("u1").removeprefix("whsec_"))) == 24


def test_nothing_of_the_vault_s_repr_is_a_key():
    assert "kkkk" not in repr(VAULT) + str(vars(VAULT).keys())


# the master key's file


def test_a_missing_key_is_made_once_for_our_own_eyes(tmp_path):
    path = tmp_path / "deep" / "master.key"
    key = read_master_key(path)
    assert (len(key), stat.S_IMODE(path.stat().st_mode)) == (32, 0o600)
    assert read_master_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["master.key"]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: read_master_key(tmp_path / "master.key"), range(32)))
    assert len(set(keys)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "master.key"
    read_master_key(path)
    path.chmod(mode)
    with pytest.raises(MasterKeyError, match="chmod 600"):
        read_master_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"AAAA", b"not base64!", base64.b64encode(b"x" * 31), base64.b64encode(b"x" * 33), b"\xff" * 44]
)  # fmt: skip
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path, content):
    path = tmp_path / "master.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(MasterKeyError, match="32 bytes in base64") as refused:
        read_master_key(path)
    assert not content.strip() or content.decode("latin-1") not in str(refused.value)


def test_a_key_from_openssl_with_its_newline_is_read(tmp_path):
    path = tmp_path / "master.key"
    path.write_bytes(base64.b64encode(b"y" * 32) + b"\n")
    path.chmod(0o600)
    assert read_master_key(path) == b"y" * 32
