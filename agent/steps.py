"""Carries out what the plan says, one action at a time; answers which facts it changed.

Each step may be cut off anywhere, also by SIGKILL, and be begun again by the next agent: what is done is written down
after it is done, and doing it twice is harmless.
"""

from __future__ import annotations

import asyncio
import functools
import random
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from agent import processes, room, wording
from agent.failpoints import failpoint
from agent.inputs.failures import InputError
from agent.journal import JournalError, log_tail
from agent.launch import LaunchRefusedError
from agent.plan import DEADLINE_EXCEEDED, PEER_ENDED, STALLED, Action, Do, hasty
from agent.ports import Answer, NoAnswerError
from agent.rendezvous import MeetingPorts, interface_towards
from agent.run import Assignment, AttemptKey, Commit, InvalidAssignmentError, Run
from agent.runners.protocol import LaunchError
from agent.sealing import SealError
from agent.uploader.failures import BUCKET_NOT_FOUND, DISK_FULL, STORAGE_DENIED, UploadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from agent.checkpoints import Checkpoints
    from agent.fetching import Fetching
    from agent.journal import Journal
    from agent.launch import Launcher
    from agent.logs import LogSender
    from agent.ports import ControlPlane
    from agent.pushing import Pushing
    from agent.reports import ReportSender
    from agent.runners.protocol import Runner
    from agent.sealing import SealingKey
    from agent.uploader.child import Uploader

Changes = dict[str, Any]
_T = TypeVar("_T")

_log = structlog.get_logger()
_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 5.0
_STORAGE_TRIES = 8
#: A denial may be somebody's slip.
_SLIPS = {STORAGE_DENIED, BUCKET_NOT_FOUND}
NODE_LOST = "NODE_LOST"
CANCELLED = "CANCELLED"
_OWN_STOPS = {
    DEADLINE_EXCEEDED: "the trainer was still there after its deadline and was killed",
    STALLED: (
        "no step, phase or other sign of progress for as long as this node's agent waits (stall_timeout), although the "
        "trainer was alive; what each of its processes was doing stands at the end of its log"
    ),
    NODE_LOST: "the node's agent was told to end its trainers as it exits",
}


@dataclass(frozen=True, slots=True)
class Collaborators:
    """Whom the steps work with."""

    journal: Journal
    runner: Runner
    control_plane: ControlPlane
    reports: ReportSender
    logs: LogSender
    uploader: Uploader
    fetching: Fetching
    pushing: Pushing
    checkpoints: Checkpoints
    launcher: Launcher
    sealing_key: SealingKey
    grace: timedelta
    simulated: bool
    meeting_ports: MeetingPorts = field(default_factory=MeetingPorts)
    storage_patience: timedelta = timedelta(minutes=30)
    checkpoint_grace: timedelta = timedelta(seconds=30)

    def grace_for(self, reason: str) -> timedelta:
        """How long a trainer that is stopped for that reason may take to end."""
        return self.grace if hasty(reason) else self.grace + self.checkpoint_grace


class Steps:
    """The steps of every attempt on this node.

    Each raises JournalError where the disk does not take a note; then nothing has changed, and it is tried again.
    """

    def __init__(self, collaborators: Collaborators) -> None:
        self._with = collaborators
        self._secrets: dict[AttemptKey, Mapping[str, str]] = {}
        self._steps: dict[Do, Callable[[Run], Coroutine[Any, Any, Changes]]] = {
            Do.ASK: self._ask,
            Do.CHECK: self._check,
            Do.FETCH: self._fetch,
            Do.RESUME: self._resume,
            Do.START: self._start,
            Do.KILL: self._kill,
            Do.SWEEP: self._sweep,
            Do.SHIP_LOG: self._ship_log,
            Do.STAGE: self._stage,
            Do.COMMIT: self._commit,
            Do.PUBLISH: self._publish,
            Do.NOTE_FAILED: self._note_failed,
            Do.NOTE_STOPPED: self._note_stopped,
            Do.NOTE_PUBLISHED: self._note_published,
            Do.REMOVE: self._remove,
        }

    async def carry_out(self, action: Action, run: Run) -> Changes:
        """Do it; the facts that it changed."""
        if action.do is Do.ORDER_STOP:
            self._with.journal.write_stop(
                action.key, action.reason, own=action.own, checkpoint=not hasty(action.reason)
            )
            failpoint("agent.after_stop_order")
            return {"stop_reason": action.reason, "own_stop": action.own}
        return await self._steps[action.do](run)

    def adopt(self, key: AttemptKey) -> None:
        """Make the attempt's directory, with the claim's nonce."""
        self._with.journal.create(key, secrets.token_bytes(16), processes.boot_id())
        failpoint("agent.after_nonce")

    def outcome(self, key: AttemptKey) -> Changes:
        """The facts that the trainer's end leaves behind."""
        record = self._with.journal.load(key)
        return {"alive": False, "exit_status": record.exit_status, "last_kind": record.last_kind}

    async def _ask(self, run: Run) -> Changes:
        nonce = self._with.journal.load(run.key).nonce
        public = self._with.sealing_key.public
        async for _ in _tries():
            try:
                port = self._with.meeting_ports.offer(run.key)
                answer = await self._with.control_plane.claim(run.key, nonce, public, port)
            except NoAnswerError:
                continue
            if answer.answer is Answer.REFUSED:
                _bound(run).warning("claim refused", reason=answer.reason)
                self._with.meeting_ports.release(run.key)
                self._follow(run)
                return {"claim_refused": True}
            if answer.answer is Answer.GRANTED:
                failpoint("agent.after_claim")
                self._follow(run, applied=answer.applied)
                return self._granted(run, answer.assignment, answer.sealed_secrets)
        raise AssertionError("tries never end")

    def _granted(self, run: Run, content: bytes, sealed: bytes) -> Changes:
        try:
            assignment = Assignment.parse(content)
            if assignment.key != run.key:
                raise InvalidAssignmentError(f"it is {assignment.key}'s, not {run.key}'s")  # noqa: TRY301
            self._secrets[run.key] = self._with.sealing_key.open(sealed)
            grace = self._with.checkpoint_grace.total_seconds()
            assignment = replace(assignment, checkpoint_grace_seconds=grace)
        except (InvalidAssignmentError, SealError) as error:
            if run.started:
                _bound(run).error("claim's answer cannot be read", error=str(error))
                return {"asked": True}
            return {"asked": True, **self._failed(run.key, "CONFIG_INVALID", str(error))}
        if self._with.simulated:
            assignment = replace(assignment, devices=())
        if assignment.gang is None or not assignment.leads:
            self._with.meeting_ports.release(run.key)
        if assignment.gang is not None:
            towards = interface_towards(assignment.gang.address, assignment.gang.port)
            assignment = replace(assignment, gang=replace(assignment.gang, interface=towards))
        if run.assignment is None:
            self._with.journal.write_assignment(run.key, assignment)
        failpoint("agent.after_assignment")
        return {"asked": True, "assignment": run.assignment or assignment}

    async def _check(self, run: Run) -> Changes:
        check = functools.partial(self._with.uploader.check, _assigned(run), self._with.journal.directory(run.key))
        answer = await self._patiently(run, check, "output's place not checked")
        return (
            self._failed(run.key, answer.reason, str(answer)) if isinstance(answer, UploadError) else {"checked": True}
        )

    async def _fetch(self, run: Run) -> Changes:
        secrets = self._secrets.get(run.key, {})
        try:
            assignment = await self._with.fetching.carry_out(
                _assigned(run), secrets, lambda report: self._append(run.key, report)
            )
        except InputError as error:
            return self._failed(run.key, error.reason, str(error))
        return {"fetched": True, "assignment": assignment}

    async def _resume(self, run: Run) -> Changes:
        for words in await self._with.checkpoints.fetch(_assigned(run)):
            # A warning would be a trainer's, and say that one runs.
            self._append(run.key, {"kind": "phase", "phase": "PREPARING_DATA", "message": words})
        failpoint("agent.after_resume")
        return {"resumed": True}

    async def store_checkpoints(self, run: Run) -> None:
        """Store each checkpoint that its trainer writes, until cancelled."""
        if run.assignment is not None and run.assignment.leads:
            await self._with.checkpoints.store(run.assignment, lambda report: self._append(run.key, report))

    async def _start(self, run: Run) -> Changes:
        directory = self._with.journal.directory(run.key)
        try:
            launch = self._with.launcher.prepare(_assigned(run), directory)
            await asyncio.to_thread(room.check, _assigned(run), directory)
            process = self._with.runner.start(launch)
        except LaunchRefusedError as error:
            return self._failed(run.key, error.reason, str(error))
        except LaunchError as error:
            return self._failed(run.key, "TRAINER_CRASHED", str(error))
        failpoint("agent.after_spawn")
        try:
            self._with.journal.write_process(run.key, process)
        except JournalError as error:
            # It runs. A restarted agent finds it by its marker, as after a crash right here.
            _bound(run).error("trainer's process not noted", error=str(error))
        failpoint("agent.after_process")
        _bound(run).info("trainer started", pid=process.pid, job_id=_assigned(run).job_id)
        return {"started": True, "process": process, "alive": True}

    async def _kill(self, run: Run) -> Changes:
        _bound(run).info("stopping", reason=run.stop_reason)
        if run.stop_reason == STALLED and run.own_stop:
            await self._with.runner.show_stacks(run.key, run.process)
        await self._with.runner.stop(run.key, run.process, self._with.grace_for(run.stop_reason))
        failpoint("agent.after_kill")
        return {**self.outcome(run.key), "swept": True}

    async def _sweep(self, run: Run) -> Changes:
        await self._with.runner.stop(run.key, run.process, self._with.grace * 0)
        changes = self.outcome(run.key)
        words = wording.exit_in_words(changes["exit_status"])
        _bound(run).info("trainer ended", said=words, kind=changes["last_kind"])
        return {**changes, "swept": True}

    async def _ship_log(self, run: Run) -> Changes:
        if run.assignment is not None:
            await self._with.uploader.ship_log(run.assignment, self._with.journal.directory(run.key))
            if run.assignment.leads and run.last_kind != "finished" and run.stop_reason != CANCELLED:
                await self._with.checkpoints.store_rest(run.assignment)
        self._with.checkpoints.let_go(run.key)
        await self._with.logs.send_rest(run.key)
        await self._with.uploader.finish_log(run.key)
        failpoint("agent.after_log")
        return {"log_shipped": True}

    async def _stage(self, run: Run) -> Changes:
        stage = functools.partial(self._with.uploader.stage, _assigned(run), self._with.journal.directory(run.key))
        digest = await self._patiently(run, stage, "output not staged")
        if isinstance(digest, UploadError):
            return self._failed(run.key, digest.reason, str(digest))
        failpoint("agent.after_stage")
        self._with.journal.write_staged(run.key, digest)
        failpoint("agent.after_staged")
        _bound(run).info("output staged", digest=digest)
        return {"staged_digest": digest}

    async def _patiently(self, run: Run, move: Callable[[], Awaitable[_T]], complaint: str) -> _T | UploadError:
        """Move bytes, again and again where that may mend: the last error once the patience is at its end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._with.storage_patience.total_seconds()
        tries = 0
        async for _ in _tries():
            tries += 1
            try:
                return await move()
            except UploadError as error:
                _bound(run).warning(complaint, reason=error.reason, error=str(error))
                full = error.reason == DISK_FULL and tries >= _STORAGE_TRIES
                if error.lasting or full or loop.time() > end:
                    return error
        raise AssertionError("tries never end")

    async def _commit(self, run: Run) -> Changes:
        async for _ in _tries():
            try:
                answer = await self._with.control_plane.commit(run.key, run.staged_digest)
            except NoAnswerError:
                continue
            if answer.answer is Answer.GRANTED:
                failpoint("agent.after_grant")
                return {"commit": Commit.GRANTED}
            if answer.answer is Answer.REFUSED:
                _bound(run).warning("commit refused", reason=answer.reason)
                return {"commit": Commit.REFUSED}
        raise AssertionError("tries never end")

    async def _publish(self, run: Run) -> Changes:
        assignment, directory = _assigned(run), self._with.journal.directory(run.key)
        tries = 0
        async for _ in _tries():
            tries += 1
            try:
                publication = await self._with.uploader.publish(assignment, directory, run.staged_digest)
            except UploadError as error:
                _bound(run).warning("output not published", reason=error.reason, error=str(error))
                # What was granted is rolled forward: what may be a slip is given some tries.
                if error.lasting and (error.reason not in _SLIPS or tries >= _STORAGE_TRIES):
                    return self._failed(run.key, error.reason, str(error))
                continue
            failpoint("agent.after_publish")
            self._with.journal.write_published(run.key, publication)
            failpoint("agent.after_published")
            return {"published": True}
        raise AssertionError("tries never end")

    async def _note_published(self, run: Run) -> Changes:
        publication = self._with.journal.load(run.key).publication or {}
        if run.assignment is not None and run.assignment.pushes:
            await self._with.pushing.carry_out(
                run.assignment,
                self._with.journal.directory(run.key),
                self._secrets.get(run.key, {}),
                lambda report: self._append(run.key, report),
            )
        self._append(run.key, {"kind": "published", **publication})
        failpoint("agent.after_published_line")
        _bound(run).info("output published", output_uri=publication.get("output_uri", ""))
        return {"last_kind": "published"}

    async def _note_stopped(self, run: Run) -> Changes:
        if run.last_kind == "finished" and run.assignment is not None and run.assignment.leads:
            try:
                await self._with.uploader.discard(run.assignment, self._with.journal.directory(run.key))
            except UploadError as error:
                _bound(run).warning("staging not removed", reason=error.reason, error=str(error))
        self._append(run.key, {"kind": "stopped", "reason": run.stop_reason})
        failpoint("agent.after_stopped_line")
        _bound(run).info("stopped", reason=run.stop_reason)
        return {"last_kind": "stopped"}

    async def _note_failed(self, run: Run) -> Changes:
        if run.own_stop:
            words = _OWN_STOPS.get(run.stop_reason, run.stop_reason)
            return self._failed(run.key, run.stop_reason, words + self._kept(run))
        if run.rebooted:
            return self._failed(run.key, NODE_LOST, "the host was restarted while the trainer ran")
        used = self._with.runner.memory(run.key)
        if used is not None and used.kills:
            return self._failed(run.key, "OUT_OF_MEMORY_HOST", wording.out_of_memory(used))
        first = run.assignment.first_rank if run.assignment else 0
        log = log_tail(self._with.journal.directory(run.key) / "logs" / f"rank-{first}.log")
        words = wording.crash(run.exit_status, last_kind=run.last_kind, log=log)
        return self._failed(run.key, "TRAINER_CRASHED", words)

    def _kept(self, run: Run) -> str:
        """What is left of a training that was ended, in words."""
        if run.stop_reason != DEADLINE_EXCEEDED or run.assignment is None:
            return ""
        uri = run.assignment.setting("artifacts.output_uri") or ""
        return wording.kept(self._with.journal.directory(run.key), output_uri=uri, uid=run.key.uid)

    async def _remove(self, run: Run) -> Changes:
        self._with.reports.forget(run.key)
        self._with.logs.forget(run.key)
        self._with.checkpoints.forget(run.key)
        self._secrets.pop(run.key, None)
        self._with.meeting_ports.release(run.key)
        stopped = run.last_kind == "stopped" and (run.stop_reason == PEER_ENDED or not hasty(run.stop_reason))
        self._with.journal.remove(run.key, resumable=stopped or run.last_kind == "failed")
        _bound(run).info("attempt forgotten")
        return {}

    def _follow(self, run: Run, *, applied: int = 0) -> None:
        directory = self._with.journal.directory(run.key)
        self._with.reports.follow(run.key, directory, applied=applied)
        self._with.logs.follow(run.key, directory, fresh=applied == 0)

    def _failed(self, key: AttemptKey, reason: str, message: str) -> Changes:
        """Write the line `failed`; of an attempt without any process."""
        self._append(key, {"kind": "failed", "reason": reason, "message": message})
        failpoint("agent.after_failed_line")
        _log.warning("attempt failed", job=key.uid, attempt=key.number, reason=reason)
        return {"last_kind": "failed", "swept": True}

    def _append(self, key: AttemptKey, report: Mapping[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._with.journal.append_report(key, {"time": time, **report})


def _assigned(run: Run) -> Assignment:
    if run.assignment is None:
        raise AssertionError(f"{run.key} has no assignment, yet is planned as if it had")
    return run.assignment


def _bound(run: Run) -> Any:
    return _log.bind(job=run.key.uid, attempt=run.key.number)


async def _tries() -> AsyncIterator[None]:
    """Endless tries: the first at once, the others after growing pauses with jitter."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret
        pause = min(pause * 2, _LAST_PAUSE_SECONDS)
