"""Every row of the table of bad requests, against the parser and the validator alone."""

from __future__ import annotations

import pytest

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.spec import Rules, check, parse
from tests.support.bad_requests import BAD_BODIES, BAD_REQUESTS, CANARIES, BadRequest


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_a_bad_request_gets_exactly_its_violations_and_shows_no_secret(bad: BadRequest):
    with pytest.raises(InvalidSpec) as refused:
        check(parse(bad.body), rules=Rules(), fallback_job_id="fallback")
    violations = refused.value.violations
    assert sorted((found.field, found.reason) for found in violations) == sorted(bad.expected)
    for found in violations:
        assert not any(canary in str(found) for canary in CANARIES)
        assert 0 < len(found.description) < 700
        assert found.description.isprintable()


@pytest.mark.parametrize("bad", BAD_BODIES, ids=lambda bad: bad.name)
def test_an_unreadable_body_gets_one_violation_that_says_where(bad: BadRequest):
    with pytest.raises(InvalidSpec) as refused:
        parse(bad.body)
    (found,) = refused.value.violations
    assert found.field or any(word in found.description for word in ("body", "line", "byte", "deep"))


def test_the_names_of_the_table_are_unique():
    names = [bad.name for bad in BAD_REQUESTS]
    assert len(names) == len(set(names))
