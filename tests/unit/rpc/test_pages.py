"""Page sizes and tokens: whatever is sent, an answer in words."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidArgument
from controlplane.rpc import pages


def forged(value) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@given(st.integers(0, 2**53 - 1), st.from_regex(r"[0-9A-Z]{1,26}", fullmatch=True))
def test_a_token_comes_back_as_it_was_given(number, text):
    assert pages.position(pages.token(number, text), int, str) == (number, text)


def test_no_token_is_no_position():
    assert pages.position("", int) is None


@pytest.mark.parametrize(
    "token",
    [
        "x", "====", "é", "a b", "A" * 100_000, forged([1, 2]), forged([]), forged({"a": 1}), forged(5), forged(None),
        forged(["1"]), forged([1.0]), forged([True]), forged([None]), forged([-1]), forged([2**53]), forged([[1]]),
        base64.urlsafe_b64encode(b"[1").decode(), base64.urlsafe_b64encode(b"[" * 100_000).decode(),
        base64.urlsafe_b64encode(b"[" + b"9" * 5000 + b"]").decode(), base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[NaN]").decode(), base64.urlsafe_b64encode(b"[1e400]").decode(),
    ],
)  # fmt: skip
def test_a_token_that_is_none_of_ours_is_refused_and_not_repeated(token):
    with pytest.raises(InvalidArgument) as refused:
        pages.position(token, int)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"
    assert token not in str(refused.value) or len(token) < 3


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "a'b", "ü", "x" * 65, "a b"])
def test_a_text_in_a_token_is_nothing_that_a_database_would_refuse(text):
    with pytest.raises(InvalidArgument):
        pages.position(forged([text]), str)


@given(st.text(max_size=60))
def test_no_token_makes_it_fail_otherwise(token):
    with contextlib.suppress(InvalidArgument):
        pages.position(token, int)


@pytest.mark.parametrize(("asked", "used"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_sizes_are_bounded(asked, used):
    assert pages.size(asked, default=50, largest=500) == used


@pytest.mark.parametrize("asked", [-1, -(2**31)])
def test_a_negative_size_is_refused(asked):
    with pytest.raises(InvalidArgument, match="page_size"):
        pages.size(asked, default=50, largest=500)
