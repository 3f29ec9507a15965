"""Whether a job's token may push where the job wants it is asked before a device is charged, and nothing is made."""

from __future__ import annotations

import pytest

from agent.inputs.failures import InputError
from agent.inputs.probe import look
from agent.inputs.push import check
from tests.support.hub import Account

TOKEN, NAME = "hf_the-jobs-own", "someone/result"
PUSHED = {"export": {"push_to_hub": NAME}}
READS = Account("someone", role="read")
FINE = Account("someone", role="fineGrained", permissions=("repo.content.read", "discussion.write"))


@pytest.fixture(params=[False, True], ids=["new", "there"])
def there(request, mirror, directory):
    """Whether the repository is there already."""
    if request.param:
        mirror.serve(NAME, directory)
    return request.param


def refused(made):
    with pytest.raises(InputError) as caught:
        made()
    assert caught.value.reason == "HUB_UNAUTHORIZED"
    assert str(caught.value).startswith("export.push_to_hub: the token in base_model.auth_token may not write to ")
    assert str(caught.value).endswith("; give a token with write access to it, or leave this field out")
    assert TOKEN not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("account", "why"),
    [
        (READS, "it is a token for reading only"),
        (FINE, "it is a fine-grained token without write access to any repository"),
        (Account("other"), "someone is neither its user nor an organization of theirs"),
        (Account("other", orgs={"someone": "read"}), "its user only reads in the organization someone"),
    ],
    ids=["reads", "fine-grained", "of another", "reads in the organization"],
)
def test_a_token_that_may_not_write_is_refused_by_the_look_whatever_the_model(job, mirror, there, account, why):
    mirror.accounts[TOKEN] = account
    said = refused(lambda: look(job(PUSHED, secrets={"base_model.auth_token": TOKEN})))
    assert why in said or (there and "its owner may not write there" in said)
    assert {each.method for each in mirror.asked} == {"GET"}


@pytest.mark.parametrize(
    "account",
    [
        Account("someone"),
        Account("other", orgs={"someone": "contributor"}),
        Account("someone", role="fineGrained", permissions=("repo.write",)),
    ],
    ids=["own", "organization", "fine-grained"],
)
@pytest.mark.usefixtures("there")
def test_a_token_that_may_write_passes_and_no_repository_is_made(job, mirror, account):
    mirror.accounts[TOKEN] = account
    before = {name: dict(each.revisions) for name, each in mirror.repositories.items()}
    wanted = job(PUSHED, secrets={"base_model.auth_token": TOKEN})
    check(wanted)
    assert look(wanted)["outcome"] == "SKIPPED"
    assert {name: each.revisions for name, each in mirror.repositories.items()} == before
    assert {each.method for each in mirror.asked} == {"GET"}


@pytest.mark.usefixtures("there")
def test_a_token_that_the_hub_does_not_know_is_refused(job):
    with pytest.raises(InputError, match=r"^base_model\.auth_token: .* refuses the token for someone/result") as caught:
        look(job(PUSHED, secrets={"base_model.auth_token": "hf_revoked"}))
    assert caught.value.reason == "HUB_UNAUTHORIZED"


@pytest.mark.parametrize("statuses", [[503] * 20, [404] * 20, [429] * 20], ids=["down", "knows no question", "limits"])
def test_a_hub_that_does_not_say_is_no_verdict(job, mirror, statuses):
    mirror.accounts[TOKEN] = READS
    mirror.faults.statuses = statuses
    wanted = job(PUSHED, secrets={"base_model.auth_token": TOKEN})
    with pytest.raises(InputError) as caught:
        check(wanted)
    assert (caught.value.reason, caught.value.lasting) == ("HUB_UNAVAILABLE", False)
    assert look(wanted)["outcome"] == "SKIPPED"


def test_a_repository_that_takes_the_owner_is_enough_where_the_hub_limits_who_asks_about_tokens(job, mirror, directory):
    mirror.serve(NAME, directory)
    mirror.accounts[TOKEN] = Account("someone")
    mirror.faults.spared = "/auth-check/"
    mirror.faults.statuses = [429] * 20
    check(job(PUSHED, secrets={"base_model.auth_token": TOKEN}))


def test_a_job_that_pushes_nothing_asks_nobody(job, mirror):
    look(job({}, secrets={"base_model.auth_token": TOKEN}))
    assert mirror.asked == []
