"""Owns the attempts of this node: holds the facts, plans, dispatches, and takes everything back after a restart.

    sync ──► want ──┐
    pidfd ── gone ──┼──► plan ──► step ──► changed facts ──► plan …
    timer ──────────┘

At most one step runs in each lane of an attempt (agent.plan); a stop order cuts off a step that may be cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from agent import processes
from agent.journal import JournalError
from agent.plan import INTERRUPTIBLE, Action, Do, Wanted, next_deadline, plan, stoppable
from agent.ports import AttemptState
from agent.run import AttemptKey, Run
from agent.stalling import Quiet, signs
from agent.steps import NODE_LOST, Collaborators, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.loops import Loops

_log = structlog.get_logger()
_JOURNAL_PAUSE_SECONDS = 1.0
#: SIGKILL acts at once, unless a process hangs in the kernel.
_UNKILLABLE_SECONDS = 20.0
_JOURNAL = "journal"
#: For what the trainers of an agent that exits have kept, after they are gone.
_STORE_LIMIT = timedelta(seconds=32)
_LOOK_SECONDS = 0.2
_BETWEEN_STEPS_SECONDS = 0.01
#: The child that ships the log to `log_uri` must not compete with the trainer's start.
_LOG_CHILD_DELAY_SECONDS = 2.0


@dataclass(slots=True)
class _Owned:
    """One attempt: its facts, and what is being done with it."""

    run: Run
    asking: tuple[Action, asyncio.Task[Any]] | None = None
    stepping: tuple[Action, asyncio.Task[Any]] | None = None
    watching: asyncio.Task[Any] | None = None
    pulse: asyncio.Task[Any] | None = None
    storing: asyncio.Task[Any] | None = None


@dataclass(slots=True)
class Supervisor:
    """See the module.

    Args:
        collaborators: whom the steps work with.
        loops: creates the tasks.
        changed: called when a stage changed, so that the control plane hears of it soon.
        deadline_grace: how long after its deadline a trainer that did not end itself is killed.
        stall_timeout: how long a trainer may show no progress; 0: for ever.
    """

    collaborators: Collaborators
    loops: Loops
    changed: Callable[[], None]
    deadline_grace: timedelta
    stall_timeout: timedelta = timedelta(0)
    _unready: dict[str, str] = field(init=False, default_factory=dict)
    _steps: Steps = field(init=False)
    _owned: dict[AttemptKey, _Owned] = field(init=False, default_factory=dict)
    _wanted: Wanted = field(init=False, default_factory=Wanted)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._steps = Steps(self.collaborators)

    @property
    def not_ready_reason(self) -> str:
        """Why the node can take no jobs now, in words; empty: it can."""
        return "; ".join(self._unready.values())

    def recover(self) -> None:
        """Take back every attempt of a former agent, live trainers included. Before anything else."""
        for key in self.collaborators.journal.keys():  # noqa: SIM118  # a method, not a mapping's
            run = self._recovered(key)
            self._owned[key] = _Owned(run)
            if run.started and run.assignment is not None:
                self.collaborators.checkpoints.attend(key)
            self.collaborators.logs.follow(key, self.collaborators.journal.directory(key), fresh=False)
            self._watch(self._owned[key])
            _log.info(
                "attempt taken back",
                job=key.uid,
                attempt=key.number,
                stage=run.stage.value,
                pid=run.process.pid if run.process and run.alive else 0,
            )
        self._news.set()

    def want(self, wanted: Wanted) -> None:
        """The control plane's latest wish; replaces the one before."""
        self._wanted = wanted
        self._news.set()

    def states(self) -> tuple[AttemptState, ...]:
        """Every attempt, as it is."""
        return tuple(
            AttemptState(
                key=owned.run.key,
                stage=owned.run.stage,
                pid=owned.run.process.pid if owned.run.process and owned.run.alive else 0,
                reports=self._reports(owned.run),
            )
            for owned in self._owned.values()
        )

    def _reports(self, run: Run) -> int:
        if run.asked or run.claim_refused:
            return self.collaborators.reports.lines(run.key)
        # Not followed yet: without this number a full report file would pass for an empty, recorded one.
        path = self.collaborators.journal.directory(run.key) / "reports.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    async def run(self) -> None:
        """Plan and dispatch for ever."""
        while True:
            self._news.clear()
            runs = {key: owned.run for key, owned in self._owned.items()}
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            for action in plan(self._wanted, runs, now, deadline_grace=self.deadline_grace):
                self._dispatch(action)
            # A claim is taken up once; what is refused must not be asked for until it is wanted anew.
            self._wanted = replace(self._wanted, claim=())
            deadline = next_deadline(runs, deadline_grace=self.deadline_grace)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline is None else max(0.1, deadline - now)):
                    await self._news.wait()

    async def end_all(self, limit: timedelta) -> None:
        """Stop every trainer because the agent exits; waits until no process is left, and what they kept is stored."""
        ending = [owned for owned in self._owned.values() if owned.run.alive and stoppable(owned.run)]
        for owned in ending:
            if not owned.run.stop_reason:
                self._dispatch(Action(Do.ORDER_STOP, owned.run.key, NODE_LOST, own=True))
        await self._until(lambda owned: owned.run.swept, ending, limit)
        owing = [owned for owned in ending if self.collaborators.checkpoints.owes(owned.run.key)]
        await self._until(lambda owned: not self.collaborators.checkpoints.owes(owned.run.key), owing, _STORE_LIMIT)

    async def _until(self, done: Callable[[_Owned], bool], among: list[_Owned], limit: timedelta) -> None:
        """Wait for their steps until all are done, at most `limit`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit.total_seconds()):
                while left := [owned for owned in among if not done(owned)]:
                    steps = [owned.stepping[1] for owned in left if owned.stepping]
                    if steps:
                        await asyncio.wait(steps, timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED")
                    else:
                        await asyncio.sleep(_BETWEEN_STEPS_SECONDS)

    def _recovered(self, key: AttemptKey) -> Run:
        journal, runner = self.collaborators.journal, self.collaborators.runner
        record = journal.load(key)
        process, rebooted = record.process, record.boot_id != processes.boot_id()
        if process is None and record.assignment is not None and not rebooted:
            process = runner.find(key)
            if process is not None:
                journal.write_process(key, process)
        return Run(
            key=key,
            assignment=record.assignment,
            fetched=record.fetched,
            started=rebooted or process is not None or record.exit_status is not None or record.reported,
            process=process,
            alive=process is not None and runner.alive(process),
            exit_status=record.exit_status,
            rebooted=rebooted,
            last_kind=record.last_kind,
            stop_reason=record.stop_reason,
            own_stop=record.own_stop,
            staged_digest=record.staged_digest,
            published=record.publication is not None,
        )

    def _dispatch(self, action: Action) -> None:
        if action.do is Do.ADOPT:
            self._adopt(action.key)
            return
        owned = self._owned[action.key]
        if action.do is Do.ORDER_STOP and owned.stepping and owned.stepping[0].do in INTERRUPTIBLE:
            # Its end makes news, and the next plan gives the order again.
            owned.stepping[1].cancel()
        lane = "asking" if action.do is Do.ASK else "stepping"
        if getattr(owned, lane) is None:
            task = self.loops.once(f"{action.key} {action.do.name}", self._carry_out(owned, action, lane))
            setattr(owned, lane, (action, task))

    def _adopt(self, key: AttemptKey) -> None:
        try:
            self._steps.adopt(key)
        except JournalError as error:
            self._complain(_JOURNAL, str(error))
            return
        self._content(_JOURNAL)
        self._owned[key] = _Owned(Run(key))
        _log.info("attempt taken up", job=key.uid, attempt=key.number)
        self._news.set()

    async def _carry_out(self, owned: _Owned, action: Action, lane: str) -> None:
        try:
            with self._complaining_if_stuck(action):
                changes = await self._steps.carry_out(action, owned.run)
        except JournalError as error:
            self._complain(_JOURNAL, str(error))
            await asyncio.sleep(_JOURNAL_PAUSE_SECONDS)
            return
        finally:
            setattr(owned, lane, None)
            self._news.set()
        self._content(_JOURNAL)
        if action.do is Do.REMOVE:
            del self._owned[action.key]
            self.changed()
        self._change(owned, changes)

    @contextlib.contextmanager
    def _complaining_if_stuck(self, action: Action) -> Iterator[None]:
        """Processes that will not die keep their devices: the node must take nothing more, and say so."""
        if action.do not in {Do.KILL, Do.SWEEP}:
            yield
            return
        longest = self.collaborators.grace + self.collaborators.checkpoint_grace
        patience = longest.total_seconds() + _UNKILLABLE_SECONDS
        words = f"processes of attempt {action.key} do not die"
        timer = asyncio.get_running_loop().call_later(patience, self._complain, str(action.key), words)
        try:
            yield
        finally:
            timer.cancel()
            self._content(str(action.key))

    def _change(self, owned: _Owned, changes: dict[str, Any]) -> None:
        before = owned.run.stage
        owned.run = replace(owned.run, **changes)
        self._watch(owned)
        if owned.run.stage is not before:
            self.changed()
        self._news.set()

    def _complain(self, about: str, reason: str) -> None:
        if self._unready.get(about) != reason:
            self._unready[about] = reason
            _log.warning("node not ready", reason=reason)
            self.changed()

    def _content(self, about: str) -> None:
        if self._unready.pop(about, ""):
            _log.info("node no longer held back", by=about)
            self.changed()

    def _watch(self, owned: _Owned) -> None:
        if owned.run.alive and owned.watching is None:
            self.collaborators.checkpoints.attend(owned.run.key)
            owned.watching = self.loops.once(f"{owned.run.key} watch", self._until_gone(owned))
            owned.storing = self.loops.once(f"{owned.run.key} checkpoints", self._steps.store_checkpoints(owned.run))
            # Where a rank on another node hangs, those of the first wait for it: that node judges for all.
            if self.stall_timeout and (owned.run.assignment is None or owned.run.assignment.leads):
                owned.pulse = self.loops.once(f"{owned.run.key} pulse", self._until_stalled(owned))

    async def _until_stalled(self, owned: _Owned) -> None:
        """Looks for progress while the trainer lives, or until there was none for too long."""
        quiet = Quiet(self.stall_timeout)
        directory = self.collaborators.journal.directory(owned.run.key)
        began = time.monotonic()
        while owned.run.alive and not owned.run.stop_reason:
            now = time.monotonic()
            if quiet.look(signs(directory), now - began):
                self._change(owned, {"stalled": True})
                return
            began = now
            await asyncio.sleep(quiet.every_seconds)

    async def _until_gone(self, owned: _Owned) -> None:
        process, assignment = owned.run.process, owned.run.assignment
        if process is None:
            return
        try:
            async with asyncio.timeout(_LOG_CHILD_DELAY_SECONDS):
                await self.collaborators.runner.gone(owned.run.key, process)
        except TimeoutError:
            if assignment is not None:
                directory = self.collaborators.journal.directory(owned.run.key)
                await self.collaborators.uploader.ship_log(assignment, directory)
            await self.collaborators.runner.gone(owned.run.key, process)
        for task in (owned.pulse, owned.storing):
            if task is not None:
                task.cancel()
        self._change(owned, self._steps.outcome(owned.run.key))
