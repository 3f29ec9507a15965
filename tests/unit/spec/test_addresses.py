"""Which addresses may be called: public ones, and those that a setting allows."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules, check
from tests.support.bad_requests import LOCAL, changed
from tests.support.bad_uris import HIDDEN_URLS
from trainplane.addresses import OutboundRules, address_is_public, literal_address

PUBLIC = ("8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2001:4860:4860::8888", "::ffff:8.8.8.8")
NOT_PUBLIC = (
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "192.0.0.9",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "5f00::1",
)


@pytest.mark.parametrize("text", PUBLIC)
def test_a_global_unicast_address_is_public(text: str):
    assert address_is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_everything_else_is_not_whatever_the_standard_library_says(text: str):
    assert not address_is_public(ip_address(text))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("4294967295", "255.255.255.255"),
        ("localhost", "127.0.0.1"),
        ("LocalHost.", "127.0.0.1"),
        ("db.localhost", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("8.8.8.8.", "8.8.8.8"),
    ],
)
def test_a_literal_is_read_as_a_c_library_reads_it(host: str, address: str):
    assert literal_address(host) == ip_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "localhost.example.com",
        "4294967296",
        "256.1.1.1",
        "1.2.3.4.5",
        "1.2.3.256",
        "09.1.1.1",
        "",
        "a.1",
        "[zz]",
    ],
)
def test_a_name_is_no_literal(host: str):
    assert literal_address(host) is None


def test_a_setting_allows_networks_and_names():
    rules = OutboundRules.of(hosts=("hooks.internal", "*.corp.example"), networks=("127.0.0.0/8", "::1/128"))
    assert rules.permits_address(ip_address("127.0.0.1"))
    assert rules.permits_address(ip_address("::ffff:127.0.0.1"))
    assert rules.permits_address(ip_address("::1"))
    assert not rules.permits_address(ip_address("10.0.0.1"))
    assert rules.permits_name("Hooks.Internal.")
    assert rules.permits_name("a.b.corp.example")
    assert not rules.permits_name("corp.example")
    assert not rules.permits_name("evilcorp.example")
    assert not OutboundRules().permits_name("hooks.internal")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/x", "http://localhost:8080/x", "http://[::1]:8080/x", "http://2130706433/"]
)
def test_a_loopback_webhook_is_taken_where_the_settings_allow_loopback(url: str):
    spec = changed(LOCAL, "callbacks.webhook_url", url)
    rules = Rules(outbound=OutboundRules.of(networks=("127.0.0.0/8", "::1/128")))
    assert check(spec, rules=rules).sent["callbacks"]["webhook_url"] == url
    with pytest.raises(InvalidSpec):
        check(spec, rules=Rules())


def test_allowing_loopback_allows_no_other_hidden_address():
    rules = Rules(outbound=OutboundRules.of(networks=("127.0.0.0/8", "::1/128")))
    for url in HIDDEN_URLS:
        if any(word in url.lower() for word in ("127", "localhost", "[::1]")) and "[::127" not in url:
            continue
        with pytest.raises(InvalidSpec):
            check(changed(LOCAL, "callbacks.webhook_url", url), rules=rules)


@pytest.mark.parametrize(
    "url",
    [
        "https://webhook.internal/train-status",
        "https://example.com",
        "http://example.com:8080/a/b?token=x&y=1",
        "HTTPS://Example.COM/X",
        "https://8.8.8.8/x",
        "https://[2606:4700:4700::1111]:8443/x",
        "https://example.com./x",
        "https://my_service.default.svc/x",
        "http://receiver:9000/x",
        "https://xn--mnchen-3ya.de/%C3%BC",
    ],
)
def test_an_ordinary_url_is_taken_as_it_is(url: str):
    assert check(changed(LOCAL, "callbacks.webhook_url", url), rules=Rules()).sent["callbacks"]["webhook_url"] == url
