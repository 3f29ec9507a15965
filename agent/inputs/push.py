"""A published output to the hub, too: one commit to a model's repository, with the job's own token.

Whether that token may write there is asked before a device is charged. Only what the hub says for certain refuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs.failures import HUB_UNAUTHORIZED, MODEL_NOT_FOUND, InputError
from agent.inputs.hub import Hub, Subject
from agent.inputs.models import TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.inputs.fetch import FetchJob

FIELD = "export.push_to_hub"
_PUSHED = Subject("model", FIELD, FIELD, MODEL_NOT_FOUND, use="write to")


def check(job: FetchJob) -> None:
    """Ask whether the job's token may push where the job wants it; nothing is made or written.

    Raises:
        InputError: HUB_UNAUTHORIZED: it may not. Or the hub does not say, which may mend itself.
    """
    name = job.spec["export"]["push_to_hub"]
    hub = _hub(job)
    may = hub.may_write(name)
    # A repository answers for the token's owner; what kind of token it is, only the hub as a whole tells.
    why = "its owner may not write there" if may is False else ""
    if not why:
        try:
            why = _problem(hub.account(name), name.partition("/")[0], there=may is True)
        except InputError as error:
            if error.lasting or may is None:
                raise
    if why:
        raise InputError(
            HUB_UNAUTHORIZED,
            f"{FIELD}: the token in base_model.auth_token may not write to {name} at {hub.endpoint}: {why}; give a "
            "token with write access to it, or leave this field out",
        )


def _problem(account: Mapping[str, Any], owner: str, *, there: bool) -> str:
    """Why whoever this is cannot write to an owner's repository; empty: it may, or it is not told."""
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return "it is a token for reading only"
    scopes = (token.get("fineGrained") or {}).get("scoped")
    if token.get("role") == "fineGrained" and isinstance(scopes, list):
        granted = {str(each) for scope in scopes for each in scope.get("permissions") or ()}
        if not any(each.startswith("repo.") and each.endswith(".write") for each in granted):
            return "it is a fine-grained token without write access to any repository"
    orgs = account.get("orgs")
    if there or account.get("type") != "user" or not isinstance(orgs, list) or owner == account.get("name"):
        return ""
    roles = {org.get("name"): org.get("roleInOrg") for org in orgs}
    if owner not in roles:
        return (
            f"there is no such repository that it shows, and {owner} is neither its user nor an organization of theirs"
        )
    return f"its user only reads in the organization {owner}" if roles[owner] == "read" else ""


def push(job: FetchJob, names: Sequence[str]) -> dict[str, Any]:
    """Commit the output's files; `commit` is the hub's. Repeatable: files that are there already change nothing.

    Never with the platform's token or the agent's: whoever submits a job could write to the platform's repositories.

    Args:
        job: whose.
        names: what to push of the attempt's `output/`.

    Raises:
        InputError: the hub does not take it.
    """
    name = job.spec["export"]["push_to_hub"]
    return {
        "commit": _hub(job).push(name, job.directory / "output", names, message=f"Result of training job {job.job_id}")
    }


def _hub(job: FetchJob) -> Hub:
    """The hub as the job's own token sees it.

    Raises:
        InputError: there is no such token.
    """
    token = job.secrets.get(TOKEN)
    if not token:
        raise InputError(HUB_UNAUTHORIZED, f"{FIELD}: the job's own token (base_model.auth_token) is gone")
    settings = job.settings
    return Hub(settings.hub_endpoint, token, Path(settings.cache_dir) / ".hub", settings.ca_bundle, _PUSHED)
