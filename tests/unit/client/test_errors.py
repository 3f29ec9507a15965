from datetime import timedelta

import grpc
import pytest
from google.rpc.status_pb2 import Status

from tests.support.fake_job_service import status
from trainplane import errors as e

CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (CODES.INVALID_ARGUMENT, e.InvalidRequest),
        (CODES.OUT_OF_RANGE, e.InvalidRequest),
        (CODES.NOT_FOUND, e.JobNotFound),
        (CODES.ALREADY_EXISTS, e.JobExists),
        (CODES.FAILED_PRECONDITION, e.PreconditionFailed),
        (CODES.UNAUTHENTICATED, e.Unauthenticated),
        (CODES.PERMISSION_DENIED, e.PermissionDenied),
        (CODES.RESOURCE_EXHAUSTED, e.ResourceExhausted),
        (CODES.UNAVAILABLE, e.Unavailable),
        (CODES.DEADLINE_EXCEEDED, e.Unavailable),
        (CODES.INTERNAL, e.ServerError),
        (CODES.UNKNOWN, e.ServerError),
        (CODES.DATA_LOSS, e.ServerError),
    ],
)
def test_each_code_is_one_class_and_keeps_message_reason_and_request_id(code, expected):
    error = e.from_status(status(code, "said so", reason="WHY", metadata={"request_id": "r1"}))
    assert type(error) is expected
    assert (str(error), error.reason, error.request_id) == ("said so", "WHY", "r1")


def test_every_violation_comes_back_in_order():
    error = e.from_status(
        status(CODES.INVALID_ARGUMENT, "2", violations=[("a.b", "OUT_OF_RANGE", "x"), ("c[1]", "UNKNOWN_FIELD", "y")])
    )
    assert isinstance(error, e.InvalidRequest)
    assert error.violations == (e.Violation("a.b", "OUT_OF_RANGE", "x"), e.Violation("c[1]", "UNKNOWN_FIELD", "y"))


def test_a_taken_id_names_the_differing_paths():
    error = e.from_status(status(CODES.ALREADY_EXISTS, "taken", reason="JOB_EXISTS", metadata={"differing": "a.b,c"}))
    assert isinstance(error, e.JobExists)
    assert error.differing == ("a.b", "c")


def test_retry_info_becomes_a_duration():
    error = e.from_status(status(CODES.RESOURCE_EXHAUSTED, "slow down", retry_after_seconds=7))
    assert error.retry_after == timedelta(seconds=7)


def test_details_of_unknown_types_are_ignored():
    message = Status(code=5, message="gone")
    message.details.add(type_url="type.googleapis.com/later.Detail", value=b"\x01\x02")
    assert type(e.from_status(message)) is e.JobNotFound


def test_what_is_refused_can_be_told_from_what_was_not_answered():
    assert issubclass(e.JobExists, e.Refused)
    assert not issubclass(e.Unavailable, e.Refused)
