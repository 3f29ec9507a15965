"""Where ranks of several nodes meet: a port that stays free for who is to listen there, and addresses that others reach."""

from __future__ import annotations

import socket

import pytest

from agent.rendezvous import MeetingPorts, interface_towards, own_address
from agent.run import AttemptKey

A, B = AttemptKey("a", 1), AttemptKey("b", 1)


def test_a_port_is_an_attempt_s_until_it_is_released() -> None:
    ports, other = MeetingPorts(), MeetingPorts()
    mine = ports.offer(A)
    assert ports.offer(A) == mine > 0
    assert len({mine, ports.offer(B), other.offer(A), other.offer(B)}) == 4
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", mine))
    ports.release(A)
    ports.release(A)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", mine))
    for held, key in ((ports, B), (other, A), (other, B)):
        held.release(key)


def test_a_rank_may_listen_where_the_agent_holds_the_port() -> None:
    ports = MeetingPorts()
    with socket.socket() as rank:
        rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rank.bind(("127.0.0.1", ports.offer(A)))
        rank.listen()
        with socket.create_connection(rank.getsockname(), timeout=5):
            pass
    ports.release(A)


def test_a_loopback_address_is_none_that_others_reach() -> None:
    assert own_address("127.0.0.1", 4222) == ""
    assert own_address("localhost", 4222) == ""
    assert own_address("no such host", 4222) == ""


def test_the_interface_is_the_one_that_leads_there() -> None:
    assert interface_towards("127.0.0.1", 9) == "lo"
    assert interface_towards("no such host", 9) == ""
