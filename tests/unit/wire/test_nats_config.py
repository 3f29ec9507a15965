from __future__ import annotations

from pathlib import Path

from trainplane.up.nats import NatsServer, binary, command, render
from trainplane.wire.credentials import Installation, Trust

TRUST = Trust("op.jwt.x", "ASYS", (("ASYS", "sys.jwt.x"), ("AOURS", "ours.jwt.x")), "")


def test_the_configuration_is_loopback_durable_bounded_and_unmonitored() -> None:
    assert (
        render(NatsServer(TRUST, Path("/data/jetstream"), port=4333))
        == """\
server_name: "trainplane"
host: "127.0.0.1"
port: 4333
max_payload: 1048576
jetstream {
  store_dir: "/data/jetstream"
  sync_interval: always
  max_file_store: 17179869184
}
operator: op.jwt.x
system_account: ASYS
resolver: MEMORY
resolver_preload {
  ASYS: sys.jwt.x
  AOURS: ours.jwt.x
}
"""
    )


def test_anonymous_readers_are_let_in_only_where_the_trust_has_them() -> None:
    anonymous = Trust(TRUST.operator, TRUST.system_account, TRUST.accounts, "anon.jwt.x")
    assert render(NatsServer(anonymous, Path("/d"))) == render(NatsServer(TRUST, Path("/d"))) + (
        "default_sentinel: anon.jwt.x\n"
    )


def test_a_directory_with_quotes_and_spaces_stays_one_string() -> None:
    assert r'store_dir: "/d/a \"b\" c"' in render(NatsServer(TRUST, Path('/d/a "b" c')))


def test_no_secret_is_in_the_configuration() -> None:
    keys = Installation.new()
    text = render(NatsServer(keys.trust(anonymous=True), Path("/d")))
    for key in (keys.operator, keys.system, keys.account, keys.signing):
        assert key.seed not in text


def test_the_binary_of_this_environment_is_found_and_runs_in_the_foreground() -> None:
    assert binary().is_file()
    assert command(Path("/c.conf")) == [str(binary()), "--config", "/c.conf"]
