"""What follows a try of a webhook."""

from __future__ import annotations

from datetime import timedelta

from controlplane.domain.delivery import (
    HOLD_BACK,
    RETRY_DELAYS,
    Endpoint,
    EndpointState,
    Outcome,
    PendingRetry,
    judge,
    judge_retry,
)

ENDPOINT = Endpoint("u", "webhook", "https://example.org/", ("job.queued",))
SECOND = 1_000_000


def tried(endpoint, status, *, at=0, retry_after=None, jitter=0.0):
    return judge(endpoint, 1, status_code=status, retry_after=retry_after, now_us=at, jitter=jitter)


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
    assert alone == PendingRetry("u", "webhook", 1, 4, alone.next_try_time_us)
    outcome, retry = Outcome.FAILED, alone
    tries = alone.tries
    while retry is not None:
        outcome, retry = judge_retry(retry, status_code=500, retry_after=None, now_us=0, jitter=0)
        tries += 1
    assert outcome is Outcome.DEAD
    assert tries == len(RETRY_DELAYS) + 1


def test_an_overtaken_event_that_is_taken_at_last_is_settled():
    retry = PendingRetry("u", "webhook", 1, 5, 0)
    assert judge_retry(retry, status_code=200, retry_after=None, now_us=0, jitter=0) == (Outcome.DELIVERED, None)
