"""When a trainer counts as stalled."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from agent.stalling import Quiet, signs

if TYPE_CHECKING:
    from pathlib import Path

MINUTE = timedelta(minutes=1)
EVERY = Quiet(MINUTE).every_seconds


def test_it_has_stalled_when_the_signs_were_the_same_for_as_long_as_they_may_be() -> None:
    quiet = Quiet(MINUTE)
    looks = [quiet.look((1, 1), EVERY) for _ in range(21)]
    assert looks == [False] * 20 + [True]


@pytest.mark.parametrize("sign", [(2, 1), (1, 2)])
def test_any_sign_begins_the_count_anew(sign: tuple[int, int]) -> None:
    quiet = Quiet(MINUTE)
    for _ in range(20):
        assert not quiet.look((1, 1), EVERY)
    assert not quiet.look(sign, EVERY)
    assert not any(quiet.look(sign, EVERY) for _ in range(19))
    assert quiet.look(sign, EVERY)


def test_time_in_which_nobody_looked_counts_for_no_more_than_two_looks() -> None:
    quiet = Quiet(MINUTE)
    quiet.look((1, 1), EVERY)
    assert not quiet.look((1, 1), 86400.0)
    assert quiet.seconds == 2 * EVERY


def test_a_heartbeat_and_a_report_are_signs(tmp_path: Path) -> None:
    seen = [signs(tmp_path)]
    reports = tmp_path / "reports.jsonl"
    reports.write_text("{}\n")
    seen.append(signs(tmp_path))
    reports.write_text("{}\n{}\n")
    seen.append(signs(tmp_path))
    (tmp_path / "heartbeat").touch()
    seen.append(signs(tmp_path))
    os.utime(tmp_path / "heartbeat", (1, 1))
    seen.append(signs(tmp_path))
    assert len(set(seen)) == len(seen)
    assert signs(tmp_path) == seen[-1]
