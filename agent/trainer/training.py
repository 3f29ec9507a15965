"""One attempt from its assignment to its output, top to bottom, as one of its ranks goes through it.

The order is by price: what can fail is checked before what costs more. Refused specs, missing models and
broken rows are told within milliseconds, before torch is imported; names that the model does not have before anything
is tokenized or loaded, by a rehearsal on its shapes. What one rank is enough for, rank 0 does: reading
and tokenizing, the digests, the reports, the output.
"""

from __future__ import annotations

import logging
import math
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.checkpoint import DIRECTORY
from agent.trainer.assignment import parse
from agent.trainer.audit import audit, refusal, store, summary
from agent.trainer.corpus import DIRECTORY as CORPUS
from agent.trainer.corpus import Corpus, read_corpus, tokenize_corpus
from agent.trainer.curves import Curves
from agent.trainer.failures import DatasetEmpty, DatasetInvalid, LossNotFinite
from agent.trainer.inputs import read_inputs
from agent.trainer.isolation import PRELOADING, isolate
from agent.trainer.metrics import MetricsRecorder
from agent.trainer.model_files import BackgroundDigests, inspect_model, require_gguf
from agent.trainer.progress import ProgressMeter
from agent.trainer.pulse import PULSE
from agent.trainer.schedule import schedule_for
from agent.trainer.stopping import STOP
from agent.wording import place_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from agent.trainer.assignment import Assignment, Tuning
    from agent.trainer.failures import TrainingFailure
    from agent.trainer.group import Group
    from agent.trainer.history import History
    from agent.trainer.model import AdaptedModel
    from agent.trainer.model_files import ModelFiles
    from agent.trainer.reports import Reports
    from agent.trainer.resuming import Checkpointing
    from agent.trainer.schedule import Schedule
    from agent.trainer.train import Step, Trainer

log = logging.getLogger("trainer")


def train_attempt(document: Mapping[str, Any], attempt_directory: Path, reports: Reports, *, rank: int = 0) -> None:
    """Train as that rank; as rank 0, leave a complete `output/` on disk. Writes no terminal report.

    Raises:
        TrainingFailure: what the user or the platform has to mend.
        Stopped: the training was asked to end early.
    """
    assignment = parse(document, read_inputs(attempt_directory))
    gang = assignment.gang
    own = rank - (gang.first_rank if gang else 0)
    isolate(assignment.devices[own : own + 1], interface=gang.interface if gang else None)
    if rank == 0:
        PULSE.begin(attempt_directory)
    reports.phase("FETCHING_MODEL")
    files = inspect_model(assignment.model.path, called=assignment.model.name)
    if assignment.export.gguf:
        require_gguf(files)
    reports.phase("PREPARING_DATA")
    if rank:
        corpus = Corpus([], attempt_directory / CORPUS)
    else:
        seed = assignment.tuning.seed if assignment.tuning.eval_fraction else None
        with _telling(attempt_directory, refusal):
            corpus = read_corpus(assignment.datasets, attempt_directory, seed=seed)
    _train(assignment, files, corpus, _Rank(attempt_directory, rank, reports))


@dataclass(frozen=True, slots=True)
class _Rank:
    """Who trains, where, and whom it tells."""

    directory: Path
    number: int
    reports: Reports


def _train(  # noqa: PLR0915 - the way of an attempt, read from top to bottom
    assignment: Assignment, files: ModelFiles, corpus: Corpus, rank: _Rank
) -> None:
    """The part that needs torch."""
    from agent.trainer import device, eva, finite, model, separation, sharding
    from agent.trainer.data.sharing import share_examples, share_portions
    from agent.trainer.exporting import Exporter
    from agent.trainer.group import join
    from agent.trainer.loss import Evaluation, mean_loss
    from agent.trainer.meeting import meeting_of
    from agent.trainer.output import Output
    from agent.trainer.provenance import Finished, provenance, rank_facts
    from agent.trainer.rehearsal import rehearse
    from agent.trainer.train import Trainer

    if PRELOADING in sys.modules:
        sys.modules[PRELOADING].read_environment_again()
    reports, tuning = rank.reports, assignment.tuning
    digests = BackgroundDigests(files) if rank.number == 0 else None
    place = device.choose(
        assignment.customization.precision,
        wants_gpu=bool(assignment.devices),
        compute_type=assignment.customization.compute_type,
    )
    rehearse(assignment, files, reports)
    group = join(
        meeting_of(assignment, rank.directory),
        rank=rank.number,
        size=assignment.world_size,
        cuda=bool(assignment.devices),
        apart=assignment.gang is not None,
    )
    tokenizer = model.load_tokenizer(files)
    limit = model.max_length(assignment, files)
    sharded = sharding.wanted(assignment, files, place, group)
    audited = _tokenized(corpus, tokenizer, tuning, limit, rank) if group.first else {}
    model.require_vocabulary(files, corpus.counts)
    base = sharding.load(files, assignment.customization, place, group, sharded=sharded)
    corpus.train = share_examples(group, corpus.directory, "train", corpus.train)
    corpus.eval = share_examples(group, corpus.directory, "eval", corpus.eval)
    portions = share_portions(group, assignment.datasets, corpus.train_counts)
    schedule = schedule_for(tuning, examples=len(corpus.train))
    adapted = model.adapt(base, assignment, tokenizer, place, total_steps=schedule.total_steps)
    eva.begin(adapted, corpus.train, portions, seed=tuning.seed, group=group, reports=reports)
    adapted = sharding.settle(adapted, group, sharded=sharded)
    exporter = Exporter(assignment, files, tokenizer, corpus, reports)
    exporter.check(adapted)
    if tuning.packing:
        adapted = separation.settle(adapted)
    model.seed_dropout(tuning.seed, rank.number)
    output = Output(rank.directory / "output", adapted, tokenizer, model.DTYPES[assignment.customization.precision])
    _log_start(corpus, adapted, schedule, group)

    trainer = Trainer(adapted, corpus.train, tuning, schedule, group, portions=portions)
    checkpoints = _checkpoints(assignment, trainer, rank)
    before = None
    history = checkpoints.resume(trainer)
    if history.resumed_from:
        before = checkpoints.facts.get("eval_before")
    elif corpus.eval:
        reports.phase("EVALUATING")
        before = finite.checked(adapted, mean_loss(adapted, corpus.eval, batch_size=tuning.batch_size, group=group))
        checkpoints.facts = {"eval_before": before}
    reports.phase("TRAINING", _beginning(history))
    meter = ProgressMeter(reports, schedule, memory_bytes=place.peak_memory_bytes)
    begun = history.resumed_from + 1 if history.resumed_from else 0
    curves = Curves(rank.directory, assignment.attempt, first_step=begun) if group.first else None
    metrics = MetricsRecorder(reports, total_steps=schedule.total_steps, curves=curves)
    if before is not None and not history.resumed_from:
        metrics.evaluated(0, before)

    def on_step(step: Step) -> None:
        metrics.add(step.point)
        meter.on_step(step)

    checkpoints.flush = metrics.report
    checkpoints.place = place_kept((assignment.spec.get("artifacts") or {}).get("output_uri") or "", assignment.uid)
    with STOP.heeded():
        trainer.run(on_step, checkpoints, history)
    evaluation = None
    if before is not None:
        reports.phase("EVALUATING")
        after = mean_loss(adapted, corpus.eval, batch_size=tuning.batch_size, group=group)
        _require_finite_end(after, trainer, checkpoints)
        evaluation = Evaluation(before, after)
        meter.on_evaluation(evaluation)
        metrics.evaluated(schedule.total_steps, after)

    ranks = group.gather(rank_facts(group.rank, adapted, history))
    if digests is not None and curves is not None:
        finished = Finished(assignment, corpus, adapted, schedule, history, evaluation, digests.result(), ranks)
        facts = provenance(finished)
    adapted = sharding.publishable(adapted, whole=adapted.is_whole or exporter.merges)
    if digests is not None and curves is not None:
        output.save()
        output.keep(curves.path)
        facts["exports"] = exporter.export(adapted, output.directory)
        output.describe(facts, audited)


def _require_finite_end(loss: float, trainer: Trainer, checkpoints: Checkpointing) -> None:
    if math.isfinite(loss):
        return
    steps = trainer.schedule.total_steps
    lost = LossNotFinite(
        f"tuning_parameters.learning_rate: after step {steps}, the last, the loss of the eval rows is {loss}; lower "
        "the learning rate"
    )
    raise trainer.with_last_good(lost, checkpoints, failed_step=steps + 1)


@contextmanager
def _telling(directory: Path, audit_of: Callable[[TrainingFailure], Mapping[str, Any]]) -> Iterator[None]:
    """Inside it, data that is refused leaves an audit that says why."""
    try:
        yield
    except (DatasetInvalid, DatasetEmpty) as failure:
        with suppress(OSError):  # the disk may be full; it is the failure that matters
            store(audit_of(failure), directory)
        raise


def _tokenized(corpus: Corpus, tokenizer: Any, tuning: Tuning, max_length: int, rank: _Rank) -> dict[str, Any]:
    """Make the corpus's examples; their audit, stored and told in a line."""

    def of_refused(failure: TrainingFailure) -> dict[str, Any]:
        return {**audit(corpus, tokenizer, max_length=max_length), **refusal(failure)}

    with _telling(rank.directory, of_refused):
        tokenize_corpus(corpus, tokenizer, tuning, max_length=max_length, reports=rank.reports)
    audited = audit(corpus, tokenizer, max_length=max_length)
    store(audited, rank.directory)
    rank.reports.phase("PREPARING_DATA", summary(audited))
    return audited


def _checkpoints(assignment: Assignment, trainer: Trainer, rank: _Rank) -> Checkpointing:
    from agent.trainer import eva
    from agent.trainer.meeting import copies_of
    from agent.trainer.resuming import Checkpointing, identity

    roots = [rank.directory / DIRECTORY]
    if assignment.resume_from:
        roots.append(Path(assignment.resume_from))
    beginning: Sequence[torch.Tensor] = ()
    if trainer.adapted.moves_base:
        beginning = trainer.parameters
    elif eva.begins_from_data(trainer.adapted):
        beginning = eva.ranks(trainer.adapted)
    checkpoints = Checkpointing(
        roots,
        # Only the rank that looks for a checkpoint compares.
        identity(
            assignment.uid,
            trainer.examples,
            world_size=trainer.group.size,
            beginning=beginning,
        )
        if trainer.group.first
        else "",
        steps=assignment.tuning.checkpoint_steps,
        keep=assignment.tuning.checkpoint_limit,
        reports=rank.reports,
    )
    checkpoints.here = copies_of(assignment, trainer.group, rank.directory)
    return checkpoints


def _beginning(history: History) -> str:
    return f"goes on from the checkpoint of step {history.resumed_from}" if history.resumed_from else ""


def _log_start(corpus: Corpus, adapted: AdaptedModel, schedule: Schedule, group: Group) -> None:
    log.info(
        "rank=%d/%d examples=%d steps=%d trainable_parameters=%d target_modules=%s device=%s",
        group.rank,
        group.size,
        len(corpus.train),
        schedule.total_steps,
        adapted.trainable_count,
        ",".join(adapted.target_modules),
        adapted.device.name,
    )
