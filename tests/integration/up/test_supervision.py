"""`trainplane up` as a process, supervising fake children that misbehave."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.eventually import eventually
from trainplane.up.leftovers import MARKER

FAKE_UP = Path(__file__).parents[2] / "support" / "fake_up.py"
ROOT = Path(__file__).parents[3]


class Up:
    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.journal = Path(f"{data_dir}.journal")
        self.process = None

    async def start(self, *arguments, closed=False):
        # -P: its folder's modules must not pass for the standard library's.
        command = [sys.executable, "-P", str(FAKE_UP), str(self.data_dir), *arguments]
        if closed:
            command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        pipe = None if closed else asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        return self

    async def ready(self):
        await eventually(lambda: self.up_json.exists() or self.process.returncode is not None, deadline_seconds=60)
        assert self.process.returncode is None, (await self.process.communicate())[1].decode()
        return json.loads(self.up_json.read_text())

    @property
    def up_json(self):
        return self.data_dir / "up.json"

    def noted(self, what):
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [tuple(line.split()[1:]) for line in lines if line.startswith(what + " ")]

    def pid(self, name):
        return {child["name"]: child["pid"] for child in json.loads(self.up_json.read_text())["children"]}.get(name)

    async def ended(self, *signals):
        for number in signals:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            out, err = await self.process.communicate()
        assert b"Traceback" not in (err or b""), err.decode()
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def left(self):
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARKER) == str(self.data_dir) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found


@pytest.fixture
async def up(tmp_path):
    made = Up(tmp_path / "data")
    yield made
    if made.process is not None and made.process.returncode is None:
        made.process.kill()
        await made.process.wait()
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


async def test_children_start_in_order_and_stop_in_reverse(up):
    await up.start()
    said = await up.ready()
    assert [child["name"] for child in said["children"]] == ["first", "second", "third"]
    assert said["pid"] == up.process.pid
    for kind, prefix in (("http", "http://127.0.0.1:"), ("grpc", "127.0.0.1:"), ("nats", "nats://127.0.0.1:")):
        assert said[kind].startswith(prefix)
        assert not said[kind].endswith(":0")
    code, out, _ = await up.ended(signal.SIGINT)
    assert code == 0
    assert f"ready http={said['http']} grpc={said['grpc']} nats={said['nats']}" in out
    assert [name for name, _ in up.noted("start")] == ["first", "second", "third"]
    assert [name for name, _ in up.noted("term")] == ["third", "second", "first"]
    assert not up.up_json.exists()
    assert up.left() == []


async def test_sigterm_ends_it_as_cleanly(up):
    await up.start()
    await up.ready()
    code, _, _ = await up.ended(signal.SIGTERM)
    assert (code, up.left()) == (0, [])


async def test_a_killed_child_is_started_again(up):
    await up.start()
    await up.ready()
    before = up.pid("second")
    os.kill(before, signal.SIGKILL)
    after = await eventually(lambda: up.pid("second") not in (None, before) and up.pid("second"))
    assert psutil.pid_exists(after)
    _, _, err = await up.ended(signal.SIGINT)
    assert "second ended (killed by SIGKILL); starting it again" in err
    assert up.left() == []


@pytest.mark.parametrize(("status", "starts"), [(2, 1), (1, 3)])
async def test_a_child_that_cannot_start_ends_it_with_its_last_lines(up, status, starts):
    await up.start(f"second=exit={status}")
    code, _, err = await up.ended()
    assert code == 3
    assert f"second ended (exit status {status})" in err
    assert "second: second cannot go on" in err
    assert [name for name, _ in up.noted("start")] == ["first", *["second"] * starts]
    assert [name for name, _ in up.noted("term")] == ["first"]
    assert up.left() == []


@pytest.mark.parametrize("stuck", ["first", "second", "third"])
async def test_ctrl_c_during_the_start_leaves_nothing(up, stuck):
    await up.start(f"{stuck}=never-ready")
    await eventually(lambda: stuck in [name for name, _ in up.noted("start")], deadline_seconds=60)
    code, _, _ = await up.ended(signal.SIGINT)
    assert code == 130
    assert up.left() == []


@pytest.mark.parametrize("moment", range(1, 7))
async def test_ctrl_c_at_any_moment_leaves_nothing(up, moment):
    await up.start("--interrupt-at", str(moment))
    code, _, _ = await up.ended()
    assert code == 130
    assert up.left() == []


async def test_a_child_that_ignores_sigterm_is_killed(up):
    await up.start("second=ignore-term")
    await up.ready()
    code, _, _ = await up.ended(signal.SIGINT)
    assert (code, up.left()) == (0, [])


async def test_a_second_ctrl_c_does_not_wait_for_a_child_that_ignores_sigterm(up):
    await up.start("third=ignore-term,patient")
    await up.ready()
    up.process.send_signal(signal.SIGINT)
    await eventually(lambda: up.noted("term"))
    async with asyncio.timeout(10):
        code, _, _ = await up.ended(signal.SIGINT)
    assert (code, up.left()) == (0, [])


async def test_a_childs_own_children_go_with_it(up):
    await up.start("first=grandchild")
    await up.ready()
    ((_, grandchild),) = [each for each in up.noted("start") if each[0] == "grandchild"]
    await up.ended(signal.SIGINT)
    assert not psutil.pid_exists(int(grandchild)) or psutil.Process(int(grandchild)).status() == psutil.STATUS_ZOMBIE
    assert up.left() == []


async def test_a_taken_port_names_who_holds_it(up):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        await up.start("--port", str(held.getsockname()[1]))
        code, _, err = await up.ended()
    assert code == 3
    assert f"pid {os.getpid()} (" in err
    assert "TRAINPLANE_HTTP_PORT" in err
    assert up.noted("start") == []


async def test_a_taken_data_directory_names_who_holds_it(up):
    await up.start()
    await up.ready()
    other = await Up(up.data_dir).start()
    code, _, err = await other.ended()
    assert code == 3
    assert f"pid {up.process.pid} (" in err
    assert "--data-dir" in err
    assert len(up.left()) == 3, "the first one's children are untouched"
    await up.ended(signal.SIGINT)


async def test_what_a_killed_up_left_is_ended_by_the_next(up):
    await up.start()
    await up.ready()
    await up.ended(signal.SIGKILL)
    orphans = up.left()
    assert len(orphans) == 3
    again = await Up(up.data_dir).start()
    await eventually(lambda: len(again.noted("ready")) == 6, deadline_seconds=60)
    assert not set(orphans) & set(again.left())
    _, _, err = await again.ended(signal.SIGINT)
    assert "left processes behind" in err
    assert all(str(pid) in err for pid in orphans)
    assert up.left() == []


async def test_a_killed_ups_addresses_are_not_left_standing(up):
    await up.start()
    await up.ready()
    await up.ended(signal.SIGKILL)
    assert up.up_json.exists()
    up.journal.unlink()
    again = await Up(up.data_dir).start("first=never-ready")
    await eventually(lambda: again.noted("start"), deadline_seconds=60)
    assert not up.up_json.exists()
    await again.ended(signal.SIGINT)


async def test_a_process_that_only_has_an_old_pid_is_left_alone(up):
    bystander = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        up.data_dir.mkdir()
        record = {"children": [{"name": "first", "pid": bystander.pid, "start_time": 1.0}]}
        (up.data_dir / "children.json").write_text(json.dumps(record))
        await up.start()
        await up.ready()
        _, _, err = await up.ended(signal.SIGINT)
        assert "left processes" not in err
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


async def test_it_runs_with_all_standard_streams_closed(up):
    await up.start(closed=True)
    await up.ready()
    os.kill(up.pid("third"), signal.SIGKILL)
    await eventually(lambda: len(up.noted("ready")) == 4)
    code, _, _ = await up.ended(signal.SIGTERM)
    assert (code, up.left()) == (0, [])
    assert "hello from third" in (up.data_dir / "logs" / "third.log").read_text()


async def test_a_trainer_that_no_agent_ended_is_killed_at_the_end(up):
    await up.start()
    await up.ready()
    (up.data_dir / "agent" / "attempts" / "01J.1").mkdir(parents=True)
    trainer = await asyncio.create_subprocess_exec(
        "sleep", "600", env={"TRAINPLANE_ATTEMPT": "01J.1", "PATH": os.environ["PATH"]}
    )
    other = await asyncio.create_subprocess_exec(
        "sleep", "600", env={"TRAINPLANE_ATTEMPT": "01K.1", "PATH": os.environ["PATH"]}
    )
    await up.ended(signal.SIGINT)
    async with asyncio.timeout(10):
        assert await trainer.wait() == -signal.SIGKILL
    assert other.returncode is None, "another installation's"
    other.kill()
    await other.wait()
