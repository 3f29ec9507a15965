"""One attempt from its assignment to its output, top to bottom.

The order is by price: what can fail is checked before what costs more. Refused specs, missing models and
broken rows are told within milliseconds, before torch is imported.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from agent.trainer.assignment import parse
from agent.trainer.corpus import read_corpus, tokenize_corpus
from agent.trainer.isolation import isolate
from agent.trainer.model_files import BackgroundDigests, inspect_model
from agent.trainer.progress import ProgressMeter
from agent.trainer.schedule import schedule_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.trainer.assignment import Assignment
    from agent.trainer.corpus import Corpus
    from agent.trainer.model import AdaptedModel
    from agent.trainer.model_files import ModelFiles
    from agent.trainer.reports import Reports
    from agent.trainer.schedule import Schedule

log = logging.getLogger("trainer")


def train_attempt(document: Mapping[str, Any], attempt_directory: Path, reports: Reports) -> None:
    """Train, and leave a complete `output/` on disk. Writes no terminal report.

    Raises:
        TrainingFailure: what the user or the platform has to mend.
    """
    assignment = parse(document)
    isolate(assignment.devices)
    reports.phase("FETCHING_MODEL")
    files = inspect_model(assignment.model_name)
    reports.phase("PREPARING_DATA")
    corpus = read_corpus(assignment.datasets)
    _train(assignment, files, corpus, attempt_directory / "output", reports)


def _train(assignment: Assignment, files: ModelFiles, corpus: Corpus, output: Path, reports: Reports) -> None:
    """The part that needs torch."""
    from agent.trainer import device, model
    from agent.trainer.loss import Evaluation, mean_loss
    from agent.trainer.output import write_output
    from agent.trainer.provenance import Finished, provenance
    from agent.trainer.train import Trainer

    digests = BackgroundDigests(files)
    tuning = assignment.tuning
    place = device.choose(assignment.precision, wants_gpu=bool(assignment.devices))
    tokenizer = model.load_tokenizer(files)
    tokenize_corpus(
        corpus,
        tokenizer,
        chat_template=tuning.chat_template,
        max_length=model.max_length(tuning, files),
        reports=reports,
    )
    base = model.load_base(files, precision=assignment.precision, device=place)
    adapted = model.adapt(base, assignment, tokenizer, place)
    schedule = schedule_for(tuning, examples=len(corpus.train))
    _log_start(corpus, adapted, schedule)

    before = None
    if corpus.eval:
        reports.phase("EVALUATING")
        before = mean_loss(adapted, corpus.eval, group=tuning.batch_size)
    reports.phase("TRAINING")
    meter = ProgressMeter(reports, schedule, memory_bytes=place.peak_memory_bytes)
    history = Trainer(adapted, corpus.train, tuning, schedule).run(meter.on_step)
    evaluation = None
    if before is not None:
        reports.phase("EVALUATING")
        evaluation = Evaluation(before, mean_loss(adapted, corpus.eval, group=tuning.batch_size))
        meter.on_evaluation(evaluation)

    finished = Finished(assignment, corpus, adapted, schedule, history, evaluation, digests.result())
    write_output(output, adapted, provenance(finished))


def _log_start(corpus: Corpus, adapted: AdaptedModel, schedule: Schedule) -> None:
    log.info(
        "examples=%d trained_tokens=%d steps=%d trainable_parameters=%d target_modules=%s device=%s",
        len(corpus.train),
        corpus.counts["train"].trained_tokens,
        schedule.total_steps,
        adapted.trainable_count,
        ",".join(adapted.target_modules),
        adapted.device.name,
    )
