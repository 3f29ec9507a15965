"""Recording what agents report: the hot path.

    batch ──► rows of its attempts, watermarks and jobs, each read once ──► advance, report by report
          ──► jobs, events, watermarks in ONE transaction ──► the answer is the new watermark

The attempt's file is the durable copy and its line number the sequence, so "recorded up to n" is one guarded column and
needs no inbox. Reports of an attempt that is over change nothing, but count: its node must be able to finish. Dense
metrics are no news to the lifecycle: they go to their own table in the same transaction. Checkpoints are news and rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from controlplane.domain import news as n
from controlplane.domain.artifact import Artifact
from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.checkpoint import Checkpoint
from controlplane.domain.job import LIVE
from controlplane.domain.lifecycle import IllegalNews
from controlplane.domain.metrics import chunk
from controlplane.engine import gangs
from controlplane.engine.requests import (
    AttemptReports,
    Output,
    Report,
    ReportAnswer,
    ReportBatch,
    Watermark,
)
from controlplane.engine.requests import Intake as Outcome

if TYPE_CHECKING:
    from controlplane.domain.attempt import AttemptNode
    from controlplane.domain.job import Job
    from controlplane.domain.metrics import MetricChunk
    from controlplane.domain.node import AttemptRef
    from controlplane.engine.changes import Changes, Recorder

_log = structlog.get_logger()
_ENDS = (n.Failed, n.Stopped, n.Published)


class Intake:
    """Applies reports, each exactly once."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def report(self, batch: ReportBatch) -> ReportAnswer:
        """Records a batch; the answer comes after the commit."""
        return await self._recorder.write(lambda changes: _Reading(changes, batch).answer())


class _Reading:
    """One batch on its way into one transaction."""

    def __init__(self, changes: Changes, batch: ReportBatch) -> None:
        refs = {rows.attempt for rows in batch.attempts}
        self._changes = changes
        self._batch = batch
        self._jobs: dict[str, Job] = changes.tx.jobs({ref.job_uid for ref in refs})
        self._attempts: dict[AttemptRef, Attempt] = changes.tx.attempts_on(batch.node, refs)
        self._nodes: dict[AttemptRef, AttemptNode] = changes.tx.attempt_nodes(refs, batch.node)
        self._chunks: list[MetricChunk] = []
        self._applied = {ref: row.applied for ref, row in self._nodes.items()}

    def answer(self) -> ReportAnswer:
        node = self._changes.tx.node(self._batch.node)
        if node is None or not self._batch.incarnation:
            return ReportAnswer(Outcome.NOT_NOW)  # its first sync has not been answered yet
        if self._batch.incarnation < node.incarnation:
            return ReportAnswer(Outcome.SUPERSEDED)
        for rows in self._batch.attempts:
            if rows.attempt in self._nodes and rows.attempt.job_uid in self._jobs:
                self._take(rows)
        tx = self._changes.tx
        tx.insert_metric_chunks(self._chunks)
        for ref, row in self._nodes.items():
            applied = self._applied[ref]
            if applied != row.applied and not tx.advance_watermark(
                ref.job_uid, ref.number, node=self._batch.node, applied=row.applied, to=applied
            ):
                raise RuntimeError("the watermark moved under a lock")
        return ReportAnswer(Outcome.APPLIED, tuple(self._watermarks()))

    def _watermarks(self) -> list[Watermark]:
        refs = dict.fromkeys(rows.attempt for rows in self._batch.attempts)
        return [Watermark(ref, self._applied.get(ref, 0), stale=ref not in self._applied) for ref in refs]

    def _take(self, rows: AttemptReports) -> None:
        ref = rows.attempt
        done = self._applied[ref]
        if rows.first_sequence > done + 1:
            return  # a gap: the watermark tells the agent where to begin again
        job = self._jobs[ref.job_uid]
        for report in rows.reports[done + 1 - rows.first_sequence :]:
            done += 1
            if report.news is not None:
                job = self._apply(job, ref, report)
            elif report.measured is not None and self._counts(job, ref) and job.state in LIVE:
                self._chunks.append(chunk(report.measured, job_uid=job.uid, attempt=ref.number, sequence=done))
        self._jobs[ref.job_uid] = job
        self._applied[ref] = max(done, self._applied[ref])

    def _apply(self, job: Job, ref: AttemptRef, report: Report) -> Job:
        news = report.news
        if isinstance(news, n.Published) and not self._is_granted(ref, report.output):
            _log.error("published_without_grant", job=job.job_id, attempt=ref.number, node=self._batch.node)
            # Nothing of the attempt is left on its node, so its devices are free and its job must go on.
            reason = "ARTIFACTS_LOST" if job.granted else "NODE_LOST"
            news = n.Failed(ref.number, reason, "its node published what it was not granted")
        attempt = self._attempts[ref]
        told = gangs.to_job(self._changes, job, attempt, news) if attempt.gang and news is not None else news
        try:
            moved = self._changes.apply(job, told) if told is not None else job
        except IllegalNews as error:  # an agent that lies, or a bug: it must not stop the others' reports
            _log.error("illegal_report", job=job.job_id, attempt=ref.number, node=self._batch.node, why=str(error))
            return job
        if isinstance(news, (n.Fetched, n.Checkpointed)) and self._counts(job, ref) and not job.terminal:
            self._keep(job, news)
        if isinstance(news, (n.Started, *_ENDS)):
            self._keep_attempt(ref, news)
        if isinstance(news, n.Published) and report.output is not None:
            self._changes.tx.insert_artifacts(_artifacts(ref.job_uid, report.output))
        return moved

    def _counts(self, job: Job, ref: AttemptRef) -> bool:
        """Whether what this node says of the training is the job's: of a gang, only what the first says."""
        return ref.number == job.attempt and not self._attempts[ref].index

    def _keep(self, job: Job, news: n.Fetched | n.Checkpointed) -> None:
        """What is no part of the job's row."""
        tx = self._changes.tx
        if isinstance(news, n.Fetched):
            tx.set_base_model_commit(job.uid, news.base_model_commit)
            return
        checkpoint = Checkpoint(
            job.uid,
            news.attempt,
            news.step,
            self._batch.node,
            news.size_bytes,
            news.manifest_digest,
            self._changes.now_us,
        )
        tx.save_checkpoint(checkpoint, oldest_step=news.oldest_step)

    def _is_granted(self, ref: AttemptRef, output: Output | None) -> bool:
        attempt = self._attempts[ref]
        return (
            output is not None and bool(attempt.manifest_digest) and attempt.manifest_digest == output.manifest_digest
        )

    def _keep_attempt(self, ref: AttemptRef, news: n.AttemptNews) -> None:
        """Its trainer runs, or nothing of it is left; devices go by the node's word, current attempt or not."""
        attempt = self._attempts[ref]
        if isinstance(news, n.Started):
            if attempt.start_time_us:
                return
            attempt = replace(attempt, start_time_us=self._changes.now_us)
        else:
            reason = attempt.reason or getattr(news, "reason", "")
            ended_us = attempt.end_time_us or self._changes.now_us
            attempt = replace(attempt, state=AttemptState.ENDED, end_time_us=ended_us, reason=reason)
            self._changes.told.capacity = True
        self._attempts[ref] = attempt
        self._changes.tx.save_attempt(attempt)


def _artifacts(job_uid: str, output: Output) -> list[Artifact]:
    base = output.output_uri.rstrip("/")
    return [Artifact(job_uid, file.path, f"{base}/{file.path}", file.size_bytes, file.sha256) for file in output.files]
