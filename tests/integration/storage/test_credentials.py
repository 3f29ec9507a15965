"""As whom a store is asked: the agent, or a role; anew before a session ends; refusals in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.storage import check_writable, open_storage
from agent.storage.access import Access, ambient, session_name
from agent.storage.errors import (
    BucketNotFoundError,
    StorageDeniedError,
    StorageError,
    StorageMisusedError,
)
from tests.support.aws import OWN_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage
    from tests.support.aws import Aws

ROLE = "arn:aws:iam::123:role/FineTune"
PLACE = "s3://bucket/models/job-id/"


def place(store: Aws, **access: object) -> Storage:
    return open_storage(PLACE, store.access(**access))


def test_without_a_role_the_agents_own_credentials_are_used(store: Aws) -> None:
    place(store).put_bytes("x", b"1")
    assert store.door.operations(by=OWN_KEY) == ["PutObject"]
    assert store.door.sessions == {}


def test_a_role_is_assumed_under_the_jobs_name_and_its_session_does_everything_else(store: Aws) -> None:
    storage = place(store, role_arn=ROLE, session_name=session_name("unique-train-id"))
    storage.put_bytes("x", b"1")
    assert b"".join(storage.read("x")) == b"1"
    assert store.door.operations(by=OWN_KEY) == ["AssumeRole"]
    [(key, given)] = store.door.sessions.items()
    assert given == (ROLE, "unique-train-id")
    assert store.door.operations(by=key) == ["PutObject", "GetObject"]


def test_a_session_is_renewed_before_it_ends(store: Aws) -> None:
    """One of 900 s is in its last quarter of an hour from the start: each request has it renewed."""
    storage = place(store, role_arn=ROLE, settings=store.settings(role_session_seconds=900))
    for _ in range(3):
        storage.put_bytes("x", b"1")
    assert store.door.operations().count("AssumeRole") >= 3
    writers = {call.access_key for call in store.door.calls if call.operation == "PutObject"}
    assert len(writers) == 3
    assert writers <= set(store.door.sessions)


def test_a_session_that_has_long_to_live_is_kept(store: Aws) -> None:
    storage = place(store, role_arn=ROLE)
    for _ in range(3):
        storage.put_bytes("x", b"1")
    assert store.door.operations() == ["AssumeRole", "PutObject", "PutObject", "PutObject"]


@pytest.mark.parametrize("operation", ["PutObject", "GetObject", "UploadPart"])
def test_a_session_that_the_store_calls_expired_is_replaced(store: Aws, tmp_path: Path, operation: str) -> None:
    (tmp_path / "file").write_bytes(bytes(17 * 1024 * 1024))
    storage = place(store, role_arn=ROLE)
    storage.put_bytes("x", b"1")
    expired = store.door.refuse(operation, code="ExpiredToken", status=400, times=1)
    if operation == "UploadPart":
        storage.put("x", tmp_path / "file")
    else:
        storage.put_bytes("x", b"2")
        assert b"".join(storage.read("x")) == b"2"
    assert expired.done == 1
    assert store.door.operations().count("AssumeRole") == 2
    assert store.unfinished_uploads() == 0


def test_credentials_that_stay_expired_are_told_in_words(store: Aws) -> None:
    expired = store.door.refuse("PutObject", code="ExpiredToken", status=400)
    with pytest.raises(StorageDeniedError, match=r"artifacts\.output_uri: s3://bucket/models/job-id/x: ExpiredToken"):
        place(store).put_bytes("x", b"1")
    assert expired.done == 3


@pytest.mark.parametrize(
    ("operation", "code", "status", "remedy"),
    [
        ("PutObject", "InvalidAccessKeyId", 403, "are not those of this store: correct them"),
        ("PutObject", "SignatureDoesNotMatch", 403, "are not those of this store: correct them"),
        ("PutObject", "ExpiredToken", 400, "the agent's credentials have expired: renew AWS_SESSION_TOKEN"),
        ("PutObject", "RequestTimeTooSkewed", 403, "set the clock of the agent's host"),
        ("AssumeRole", "InvalidClientTokenId", 403, "are not those of this store: correct them"),
        ("AssumeRole", "SignatureDoesNotMatch", 403, "are not those of this store: correct them"),
    ],
)
def test_credentials_that_are_wrong_ask_for_no_permission(
    store: Aws, operation: str, code: str, status: int, remedy: str
) -> None:
    store.door.refuse(operation, code=code, status=status)
    with pytest.raises(StorageDeniedError) as told:
        place(store, role_arn=ROLE if operation == "AssumeRole" else None).put_bytes("x", b"1")
    assert remedy in str(told.value)
    assert "allow s3:" not in str(told.value)
    assert "sts:AssumeRole" not in str(told.value)


@pytest.mark.parametrize("field", ["artifacts.output_uri", "artifacts.log_uri", "datasets[0].source"])
def test_a_role_that_may_not_be_assumed_is_named_with_its_field(store: Aws, field: str) -> None:
    refused = store.door.refuse("AssumeRole", code="AccessDenied", status=403)
    with pytest.raises(StorageDeniedError) as told:
        place(store, role_arn=ROLE, field=field).size("x")
    owner = field.rpartition(".")[0]
    assert str(told.value).startswith(f"{owner}.auth.role_arn: {ROLE}: AccessDenied on AssumeRole (told so)")
    assert "sts:AssumeRole" in str(told.value)
    assert refused.done == 1


def test_a_token_service_that_fails_is_tried_again_and_then_may_pass(store: Aws) -> None:
    failing = store.door.refuse("AssumeRole", code="InternalFailure", status=500)
    with pytest.raises(StorageError, match=r"artifacts\.auth\.role_arn: .* cannot be assumed now") as told:
        place(store, role_arn=ROLE, settings=store.settings(request_tries=2)).size("x")
    assert type(told.value) is StorageError
    assert failing.done == 4


def test_a_refusal_names_field_place_permission_and_identity(store: Aws) -> None:
    refused = store.door.refuse("PutObject", code="AccessDenied", status=403)
    with pytest.raises(StorageDeniedError) as told:
        check_writable(place(store))
    assert str(told.value).startswith("artifacts.output_uri: s3://bucket/models/job-id/.attempts/check-")
    assert "AccessDenied on PutObject (told so): allow s3:PutObject there to the agent's own credentials" in str(
        told.value
    )
    assert "artifacts.auth.role_arn" in str(told.value)
    assert refused.done == 1
    assert store.contents("s3://bucket/") == {}


def test_a_check_that_may_not_remove_is_a_refusal_too(store: Aws) -> None:
    refused = store.door.refuse("DeleteObjects", code="AccessDenied", status=403)
    with pytest.raises(StorageDeniedError, match="s3:DeleteObject"):
        check_writable(place(store, role_arn=ROLE))
    assert refused.done == 2


def test_a_bucket_that_does_not_exist_is_said_so(store: Aws) -> None:
    storage = open_storage("s3://no-such-bucket/x/", store.access())
    for attempt in (lambda: storage.put_bytes("x", b"1"), lambda: storage.size("x"), lambda: storage.exists("x")):
        with pytest.raises(BucketNotFoundError, match=r"artifacts\.output_uri: bucket 'no-such-bucket' does not exist"):
            attempt()
        with pytest.raises(OSError, match="create it, or name another") as told:
            attempt()
        assert not isinstance(told.value, FileNotFoundError)


def test_an_agent_without_credentials_is_told_what_to_do(store: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageDeniedError, match="the agent has no credentials of its own"):
        place(store).put_bytes("x", b"1")
    assert store.door.calls == []


def test_what_no_store_takes_is_not_tried_again(store: Aws) -> None:
    with pytest.raises(StorageMisusedError, match=r"artifacts\.output_uri: s3://UPPER CASE/"):
        open_storage("s3://UPPER CASE/x/", store.access()).put_bytes("x", b"1")
    assert store.door.calls == []


@pytest.mark.parametrize(
    ("job_id", "name"),
    [("unique-train-id", "unique-train-id"), ("a", "a-"), ("x/y:z ü", "x-y-z--"), ("j" * 100, "j" * 64)],
)
def test_a_session_is_named_after_the_job_as_far_as_the_service_allows(job_id: str, name: str) -> None:
    assert session_name(job_id) == name


def test_an_access_survives_its_way_to_a_child(store: Aws) -> None:
    access = store.access(role_arn=ROLE, field="datasets[3].source")
    assert Access.parse(access.to_json()) == access
    assert access.role_field == "datasets[3].auth.role_arn"


def test_only_aws_variables_go_along() -> None:
    own = {"AWS_PROFILE": "p", "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "t", "PATH": "/bin", "LAWS_": "x"}
    assert ambient(own) == {"AWS_PROFILE": "p", "AWS_SECRET_ACCESS_KEY": "s"}
