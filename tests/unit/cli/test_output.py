import pytest

from tests.support.fake_job_service import event, story
from trainplane.cli import display, events, output
from trainplane.v1.job_pb2 import Job, Progress


def test_the_terminal_is_not_obeyed_by_what_others_wrote():
    assert output.visible("a\x1b[2Jb\rc\x9b\td\n") == "a\u241b[2Jb\u240dc\ufffd\td\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (-5, "0s"), (59.4, "59s"), (61, "1m01s"), (3599, "59m59s"), (3725, "1h02m")]
)
def test_durations_are_short(seconds, text):
    assert output.duration(seconds) == text


def test_progress_is_empty_before_the_first_step():
    assert output.progress_text(Progress()) == ""
    assert output.progress_text(Progress(step=4, total_steps=30, loss=1.92, tokens_per_second=3100.4)) == (
        "step 4/30  loss 1.920  3100 tokens/s"
    )
    assert output.progress_text(Progress(step=30, total_steps=30, loss=1.5, eval_loss_before=2.6, eval_loss=1.25)) == (
        "step 30/30  loss 1.500  eval loss 2.600 -> 1.250"
    )


def test_json_is_the_http_apis():
    fields = output.as_dict(Job(job_id="j", state=Job.RUNNING))
    assert fields["state"] == "RUNNING"
    assert fields["queue_position"] == 0
    assert "webhook_signing_secret" not in fields
    assert output.as_dict(Job(webhook_signing_secret="whsec_x"))["webhook_signing_secret"] == "whsec_x"


def test_each_event_is_one_line():
    for each in story("j", end="job.failed"):
        assert "\n" not in events.line(each) + display.line(each)
    failed = story("j", end="job.failed")[-1]
    assert "FAILED" in display.line(failed)
    assert "DATASET_INVALID: datasets[0].source: row 7" in display.line(failed)
    assert "step 2/3" in display.line(story("j")[4])


def test_a_warning_event_says_that_it_is_one():
    warning = event("j", 4, "job.warning", Job.RUNNING, reason="TRUNCATED", message="3 rows were cut")
    assert "warning" in display.line(warning)
