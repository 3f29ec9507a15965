"""What follows a try of a webhook, and of a status stream."""

from __future__ import annotations

from datetime import timedelta

from controlplane.domain.delivery import (
    HOLD_BACK,
    RETRY_DELAYS,
    STREAM_DELAYS,
    STREAM_PATIENCE,
    Endpoint,
    EndpointState,
    Heard,
    Outcome,
    PendingRetry,
    judge,
    judge_batch,
    judge_retry,
)

ENDPOINT = Endpoint("u", "webhook", "https://example.org/", ("job.queued",))
SECOND = 1_000_000


def tried(endpoint, status, *, at=0, retry_after=None, jitter=0.0):
    return judge(endpoint, 1, Heard(status, retry_after, at, jitter))


def test_any_2xx_moves_the_cursor_and_forgets_failures():
    failed = tried(ENDPOINT, 500).endpoint
    done = tried(failed, 204, at=5 * SECOND)
    assert done.outcome is Outcome.DELIVERED
    assert (done.endpoint.cursor, done.endpoint.tries, done.endpoint.first_failure_time_us) == (1, 0, 0)


def test_a_redirect_a_refusal_and_silence_are_failures():
    for status in (301, 400, 404, 500, 0):
        verdict = tried(ENDPOINT, status)
        assert verdict.outcome is Outcome.FAILED
        assert verdict.endpoint.next_try_time_us == 5 * SECOND


def test_410_disables_the_endpoint():
    verdict = tried(ENDPOINT, 410)
    assert (verdict.outcome, verdict.endpoint.state) == (Outcome.DISABLED, EndpointState.DISABLED)


def test_429_and_503_are_tried_again_when_they_ask_for_it_and_others_are_not():
    asked = timedelta(seconds=40)
    assert tried(ENDPOINT, 429, retry_after=asked).endpoint.next_try_time_us == 40 * SECOND
    assert tried(ENDPOINT, 503, retry_after=asked).endpoint.next_try_time_us == 40 * SECOND
    assert tried(ENDPOINT, 500, retry_after=asked).endpoint.next_try_time_us == 5 * SECOND
    assert tried(ENDPOINT, 429, retry_after=timedelta(days=900)).retry.next_try_time_us == 86400 * SECOND


def test_jitter_spreads_by_up_to_a_tenth():
    assert tried(ENDPOINT, 500, jitter=1.0).endpoint.next_try_time_us == 5.5 * SECOND


def test_an_event_that_fails_for_five_minutes_is_overtaken_then_and_tried_on_alone_until_it_is_dead():
    endpoint, now, alone = ENDPOINT, SECOND, None
    while alone is None:
        verdict = tried(endpoint, 500, at=now)
        endpoint, alone = verdict.endpoint, verdict.retry
        now = endpoint.next_try_time_us
    assert endpoint.cursor == 1
    assert endpoint.next_try_time_us == (1 + HOLD_BACK.total_seconds()) * SECOND
    assert alone == PendingRetry("u", "webhook", 1, 4, alone.next_try_time_us, "example.org")
    outcome, retry = Outcome.FAILED, alone
    tries = alone.tries
    while retry is not None:
        outcome, retry = judge_retry(retry, Heard(500, None, 0, 0))
        tries += 1
    assert outcome is Outcome.DEAD
    assert tries == len(RETRY_DELAYS) + 1


def test_an_overtaken_event_that_is_taken_at_last_is_settled():
    retry = PendingRetry("u", "webhook", 1, 5, 0)
    assert judge_retry(retry, Heard(200, None, 0, 0)) == (Outcome.DELIVERED, None)


STREAM = Endpoint("u", "status_stream", "https://Events.example.org:8443/x", ())


def batch(endpoint, status, *, at=0, retry_after=None, ended=0):
    return judge_batch(endpoint, 7, Heard(status, retry_after, at, 0.0), job_ended_us=ended)


def test_a_taken_batch_moves_the_cursor_to_its_last_event_and_forgets_failures():
    done = batch(batch(STREAM, 500).endpoint, 202, at=SECOND)
    assert done.outcome is Outcome.DELIVERED
    assert (done.endpoint.cursor, done.endpoint.tries, done.endpoint.first_failure_time_us) == (7, 0, 0)


def test_a_stream_s_delays_grow_from_a_second_to_a_minute_and_stay_there_while_its_job_lives():
    endpoint, now, waits = STREAM, SECOND, []
    for _ in range(2_000):
        verdict = batch(endpoint, 503, at=now)
        assert verdict.outcome is Outcome.FAILED
        endpoint = verdict.endpoint
        waits.append((endpoint.next_try_time_us - now) // SECOND)
        now = endpoint.next_try_time_us
    assert endpoint.cursor == 0
    assert waits == [delay.total_seconds() for delay in STREAM_DELAYS] + [60] * (2_000 - len(STREAM_DELAYS))


def test_a_stream_dies_when_it_still_fails_long_after_its_job_s_end():
    ended = 5 * SECOND
    last = ended + int(STREAM_PATIENCE.total_seconds()) * SECOND
    assert batch(STREAM, 500, at=last - 1, ended=ended).outcome is Outcome.FAILED
    dead = batch(STREAM, 500, at=last, ended=ended)
    assert (dead.outcome, dead.endpoint.state, dead.endpoint.cursor) == (Outcome.DEAD, EndpointState.SETTLED, 0)
    assert batch(STREAM, 200, at=last, ended=ended).outcome is Outcome.DELIVERED


def test_a_stream_honours_410_and_retry_after_as_a_webhook_does():
    assert batch(STREAM, 410).endpoint.state is EndpointState.DISABLED
    assert batch(STREAM, 429, retry_after=timedelta(seconds=90)).endpoint.next_try_time_us == 90 * SECOND
    assert batch(STREAM, 500, retry_after=timedelta(seconds=90)).endpoint.next_try_time_us == SECOND


def test_endpoints_of_one_host_and_port_are_known_as_such():
    assert STREAM.host == "events.example.org:8443"
