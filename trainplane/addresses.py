"""Which network addresses we may be told to call: one judgement, used at submit and again when connecting.

A webhook's URL comes from a user, so it must not reach what only this machine reaches: its loopback, its private
networks, a cloud's metadata service. The standard library's `is_global` is not enough: Python 3.11 calls multicast and
the NAT64 and 6to4 forms of 169.254.169.254 global. So this names what is public, and all else is not.

A name is judged here only if it *is* an address in disguise (`2852039166`, `0x7f.1`, `localhost`); any other is judged
once resolved, by whoever connects, with `OutboundRules.permits_address` for each address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: A host, lower case and without brackets, and a port.
Place = tuple[str, int]

#: Beyond what `is_global` excludes: protocol assignments (RFC 6890; its PCP anycast is one's own router), 6to4 relays
#: (RFC 7526), shared space (RFC 6598), benchmarks (RFC 2544).
_V4_NOT_PUBLIC = tuple(
    IPv4Network(n) for n in ("192.0.0.0/24", "192.88.99.0/24", "100.64.0.0/10", "198.18.0.0/15", "0.0.0.0/8")
)
#: The only space from which global unicast is given out (RFC 4291). NAT64 and IPv4-compatible forms lie outside it.
_V6_UNICAST = IPv6Network("2000::/3")
#: Inside that space: Teredo and other IETF protocol assignments, documentation (RFC 3849, RFC 9637), 6to4.
_V6_NOT_PUBLIC = tuple(IPv6Network(n) for n in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))

#: A part of an address as inet_aton reads it: hexadecimal, octal, decimal. Ten digits hold 2^32.
_PART = re.compile(r"0x([0-9a-f]*)|(0[0-7]*)|([1-9][0-9]{0,9})")


def address_is_public(address: Address) -> bool:
    """Whether anybody on the internet reaches the same machine by this address, without a translator between.

    An IPv4-mapped address (`::ffff:a.b.c.d`) is judged as the IPv4 address that a socket would connect to.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address_is_public(address.ipv4_mapped)
        return address in _V6_UNICAST and address.is_global and not any(address in n for n in _V6_NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not any(address in n for n in _V4_NOT_PUBLIC)


def literal_address(host: str) -> Address | None:
    """The address that a URL's host *is*, or None for a name that must be resolved.

    Reads what C libraries read (inet_aton: one to four decimal, octal or hexadecimal parts), brackets, a trailing dot,
    and takes `localhost` and every name under it for 127.0.0.1 (RFC 6761).
    """
    host = host.strip().rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    if host.startswith("[") or ":" in host:
        try:
            return ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            return None
    return _inet_aton(host)


def _inet_aton(host: str) -> IPv4Address | None:
    matches = [_PART.fullmatch(part) for part in host.split(".")]
    if len(matches) > 4:
        return None
    parts = []
    for match in matches:
        if match is None:
            return None
        hexadecimal, octal, decimal = match.groups()
        parts.append(int(decimal or octal or hexadecimal or "0", 10 if decimal else 8 if octal else 16))
    *firsts, last = parts
    if any(first > 0xFF for first in firsts) or last >= 256 ** (5 - len(parts)):
        return None
    return IPv4Address(last + sum(first << (8 * (3 - position)) for position, first in enumerate(firsts)))


@dataclass(frozen=True, slots=True)
class OutboundRules:
    """Whom we may call besides the public internet: the platform's settings.

    Attributes:
        hosts: names whose addresses may be anything: exact (`hooks.internal`) or everything under one (`*.internal`).
        networks: further addresses, e.g. `127.0.0.0/8` under `trainplane up`.
        connect_to: which place of a URL is reached at which other one; that is then allowed whatever it is.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    connect_to: Mapping[Place, Place] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        *,
        hosts: tuple[str, ...] = (),
        networks: tuple[str, ...] = (),
        connect_to: Mapping[str, str] | None = None,
    ) -> OutboundRules:
        """Read the settings' words.

        Raises:
            ValueError: a network is none, or a place is no `host:port`.
        """
        return cls(
            tuple(host.lower().rstrip(".") for host in hosts),
            tuple(ip_network(n) for n in networks),
            {_named_place(asked): _place(reached) for asked, reached in (connect_to or {}).items()},
        )

    def permits_name(self, host: str) -> bool:
        """Whether this name is allowed whatever it resolves to."""
        host = host.lower().rstrip(".")
        return any(host == rule or (rule[:2] == "*." and host.endswith(rule[1:])) for rule in self.hosts)

    def instead_of(self, host: str, port: int) -> Place | None:
        """Where this place of a URL is reached by the operator's word; None: where its name says."""
        return self.connect_to.get((host.lower().rstrip("."), port))

    def permits_address(self, address: Address) -> bool:
        """Whether this address may be connected to: it is public, or in an allowed network."""
        if address_is_public(address):
            return True
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address.version == network.version and address in network for network in self.networks)


def _place(text: str) -> Place:
    """Reads `host:port`, `127.0.0.1:9443`, `[::1]:9443`.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != text or "@" in text:
        raise ValueError(f"must be host:port, as in events.internal:443 or 127.0.0.1:9443, got {text!r}")
    return host.rstrip("."), port


def _named_place(text: str) -> Place:
    """A place whose host is a name: an address is connected to as it stands, and no name is looked up."""
    host, port = _place(text)
    if literal_address(host) is not None:
        raise ValueError(f"only names can be reached elsewhere, {text!r} has an address")
    return host, port
