"""The demo, told from a user's seat: a request by HTTP, and everybody who listens.

    baseline ─► POST /train (Envoy) ─┬─► watch stream: live progress ─┐
                                     ├─► webhook receiver             ├─► the adapter, measured by plain PeftModel
                                     └─► NATS subscriber             ─┘

What it measures is judged by `verdict`, and by nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from trainplane.client import Client
from trainplane.demo import receiver, request, subscriber
from trainplane.demo.python_process import run_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainplane.up.record import Addresses
    from trainplane.v1.job_event_pb2 import JobEvent
    from trainplane.v1.job_pb2 import Job

#: After the job's end: the last event's way to the subscriber and to the receiver.
_LAST_WORD = timedelta(seconds=60)
#: A job is placed within a second where it can be.
_LOOKS, _LOOK_SECONDS = 20, 0.5
#: The held-out loss must fall at least to this share of what it was.
_HIGHEST_SHARE = 0.80


class DemoFailedError(Exception):
    """The demo could not be told to its end; the message says why."""


class Screen(Protocol):
    """Where the story is shown."""

    def event(self, event: JobEvent) -> None:
        """Show an event of the watch stream."""
        ...

    def note(self, line: str) -> None:
        """Show a line that stays."""
        ...


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a model knows, as `trainplane.demo.evaluate` says."""

    loss: float
    answer: str
    contains_keyword: bool


@dataclass(slots=True)
class Heard:
    """What reached the listeners."""

    webhooks: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    succeeded: asyncio.Event = field(default_factory=asyncio.Event)
    """The webhook said so, with a valid signature."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the demo measured."""

    job: Job
    output_dir: Path
    question: str
    before: Knowledge
    after: Knowledge | None
    """None: the job did not succeed, so there is no adapter to measure."""
    heard: Heard

    @property
    def improvement(self) -> float:
        """The share by which the held-out loss fell."""
        return 1 - self.after.loss / self.before.loss if self.after else 0.0


def verdict(outcome: Outcome) -> Sequence[tuple[str, bool]]:
    """Everything that must be true, and whether it is."""
    before, after, heard = outcome.before, outcome.after, outcome.heard
    fell = after is not None and after.loss <= _HIGHEST_SHARE * before.loss
    numbers = [message["data"]["sequence"] for message in heard.messages]
    return (
        ("the job SUCCEEDED", outcome.job.state == outcome.job.SUCCEEDED),
        (f"held-out loss fell by at least {1 - _HIGHEST_SHARE:.0%}", fell),
        ("the base model's answer lacks the keyword", not before.contains_keyword),
        ("the adapted model's answer has it", after is not None and after.contains_keyword),
        ("the webhook got job.succeeded, validly signed", heard.succeeded.is_set()),
        (
            f"the NATS subscriber saw events 1 to {outcome.job.last_sequence} without a gap",
            bool(numbers) and numbers == list(range(1, outcome.job.last_sequence + 1)),
        ),
    )


@dataclass(frozen=True, slots=True)
class Story:
    """One run.

    Attributes:
        addresses: of the running trainplane.
        model_dir: where the base model is, or is to be made.
        output_dir: where the adapter is to be published.
        screen: where to show it.
    """

    addresses: Addresses
    model_dir: Path
    output_dir: Path
    screen: Screen

    async def tell(self) -> Outcome:
        """Run it.

        Raises:
            DemoFailedError: the request was refused.
            ProcessFailedError: the model could not be made or measured.
            TrainplaneError: the control plane did not answer.
        """
        note = self.screen.note
        note("making the base model, if it is not there yet (about 25 s)")
        await run_module("trainplane.demo.model", str(self.model_dir), line=lambda line: note(f"  {line}"))
        note("measuring it: held-out loss, and one question")
        before = await self._measure(adapter=None)
        heard = Heard()
        job = await self._train(heard)
        after = None
        if job.state == job.SUCCEEDED:
            note("measuring it again, with the adapter, by plain transformers and PeftModel")
            after = await self._measure(adapter=self.output_dir)
        question = json.loads(request.PROBE_FILE.read_text())["question"]
        return Outcome(job, self.output_dir, question, before, after, heard)

    async def _measure(self, *, adapter: Path | None) -> Knowledge:
        arguments = ["--model", str(self.model_dir)]
        arguments += ["--heldout", str(request.HELDOUT_FILE), "--probe", str(request.PROBE_FILE)]
        if adapter is not None:
            arguments += ["--adapter", str(adapter)]
        said = json.loads((await run_module("trainplane.demo.evaluate", *arguments)).splitlines()[-1])
        return Knowledge(said["loss"], said["answer"], said["contains_keyword"])

    async def _train(self, heard: Heard) -> Job:
        job_id = f"demo-{secrets.token_hex(3)}"
        async with contextlib.AsyncExitStack() as listeners:
            hook = await listeners.enter_async_context(receiver.listening(self._on_webhook(heard)))
            following = asyncio.create_task(self._follow_nats(job_id, heard), name="nats subscriber")
            listeners.push_async_callback(_cancelled, following)
            places = request.Places(job_id, self.model_dir, self.output_dir, hook.url)
            answer = await self._post(request.build(places))
            hook.secret.set_result(answer["webhook_signing_secret"])
            self.screen.note(f"POST {self.addresses.http}/train answered 200: {job_id} is {answer['state']}")
            async with Client(self.addresses.grpc, token="") as client:
                await _placed(client, job_id)
                async for event in client.watch(job_id):
                    self.screen.event(event)
                job = await client.get(job_id)
            # What does not come in time is missed, and the verdict says so.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD.total_seconds()):
                    await following
                    if job.state == job.SUCCEEDED:
                        await heard.succeeded.wait()
            return job

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.addresses.http}/train", json=body) as answer,
        ):
            if answer.status != 200:
                raise DemoFailedError(f"POST /train was answered {answer.status}: {await answer.text()}")
            job: dict[str, Any] = await answer.json()
            return job

    def _on_webhook(self, heard: Heard) -> Callable[[dict[str, Any]], None]:
        def tell(event: dict[str, Any]) -> None:
            heard.webhooks.append(event)
            self._note_heard("webhook, signature valid", event, heard.webhooks)
            if event["type"] == "job.succeeded":
                heard.succeeded.set()

        return tell

    async def _follow_nats(self, job_id: str, heard: Heard) -> None:
        async for event in subscriber.follow(self.addresses.nats, job_id):
            heard.messages.append(event)
            self._note_heard("NATS", event, heard.messages)

    def _note_heard(self, by: str, event: dict[str, Any], heard: Sequence[dict[str, Any]]) -> None:
        """A line for each event; of progress, which comes every second, for every tenth."""
        number = event["data"]["sequence"]
        progress = sum(each["type"] == "job.progress" for each in heard)
        if event["type"] != "job.progress":
            self.screen.note(f"  {by}: event {number}, {event['type']}")
        elif progress % 10 == 0:
            self.screen.note(f"  {by}: event {number}, {event['type']} (the {progress}th)")


async def _placed(client: Client, job_id: str) -> None:
    """Wait until the job has a node.

    Raises:
        DemoFailedError: it has none and a reason for it: nothing else runs here, so that would not change.
    """
    for _ in range(_LOOKS):
        job = await client.get(job_id)
        if job.state != job.QUEUED:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    if job.pending_reason:
        raise DemoFailedError(f"this machine cannot take the job: {job.pending_reason}")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
