"""`demo`."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainplane.cli import output as out
from trainplane.cli.output import Format, Output
from trainplane.cli.session import Exit

if TYPE_CHECKING:
    from trainplane.demo.story import Outcome


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the model is kept, and this run's data; the last run's is removed.")
    ] = Path(".demo"),
    output: Output = Format.TEXT,
) -> None:
    """Fine-tune a real small model on this machine, end to end; takes about five minutes."""
    raise typer.Exit(_run(folder.absolute(), output=output))


def _run(folder: Path, *, output: Format) -> Exit:
    from trainplane.cli.up import own_standard_streams, tell
    from trainplane.demo.python_process import ProcessFailedError
    from trainplane.demo.story import DemoFailedError
    from trainplane.errors import TrainplaneError
    from trainplane.up.errors import UpError
    from trainplane.up.holders import held_directory
    from trainplane.up.signals import Interrupted, until_signalled

    own_standard_streams()
    try:
        with held_directory(folder / "demo.lock"):
            outcome = asyncio.run(until_signalled(lambda hurry: _told(folder, hurry, output=output), tell=tell))
    except Interrupted:
        return Exit.INTERRUPTED
    except (UpError, DemoFailedError, ProcessFailedError, TrainplaneError, OSError) as error:
        tell(f"error: {error}")
        return Exit.JOB_FAILED
    if output is Format.JSON:
        return _judge_as_json(outcome)
    return _judge(outcome, folder)


async def _told(folder: Path, hurry: asyncio.Event, *, output: Format) -> Outcome:
    from trainplane.cli import display
    from trainplane.cli.up import tell
    from trainplane.demo.story import Story
    from trainplane.up.programs import prepare
    from trainplane.up.settings import Ports, UpSettings
    from trainplane.up.stack import fresh, running

    screen = display.LineDisplay(out.say_aside) if output is Format.JSON else display.for_this_terminal()
    data_dir = folder / "run"
    await asyncio.to_thread(fresh, data_dir, tell=tell)
    screen.note("starting nats-server, the control plane, an agent and Envoy")
    settings = UpSettings(data_dir=data_dir, ports=Ports(http=0, grpc=0, nats=0))
    async with running(settings, tell=tell, hurry=hurry, prepared=prepare) as everything:
        here = everything.addresses
        screen.note(f"ready http={here.http} grpc={here.grpc} nats={here.nats}")
        with screen as shown:
            story = Story(here, folder / "model", data_dir / "output", shown)
            return await everything.alongside(story.tell())


def _judge_as_json(outcome: Outcome) -> Exit:
    from dataclasses import asdict

    from trainplane.demo.story import verdict

    findings = verdict(outcome)
    out.print_json(
        {
            "job_id": outcome.job.job_id,
            "state": out.state_name(outcome.job),
            "output_dir": str(outcome.output_dir),
            "question": outcome.question,
            "before": asdict(outcome.before),
            "after": asdict(outcome.after) if outcome.after else None,
            "findings": [{"claim": claim, "holds": holds} for claim, holds in findings],
        }
    )
    return Exit.DONE if all(holds for _, holds in findings) else Exit.JOB_FAILED


def _judge(outcome: Outcome, folder: Path) -> Exit:
    from trainplane.demo.story import verdict

    out.say()
    before, after = outcome.before, outcome.after
    if after is None:
        out.say(f"the job is {out.state_name(outcome.job)}: {out.explanation(outcome.job)}")
        out.say(f"logs are in {folder / 'run' / 'logs'}")
    else:
        out.say(f"held-out loss   {before.loss:.3f} before, {after.loss:.3f} after ({outcome.improvement:.0%} lower)")
        out.say(f"the adapter     {outcome.output_dir}")
        out.say(f"the question    {outcome.question}")
        out.say(f"  base model    {before.answer}")
        out.say(f"  adapted       {after.answer}")
    out.say()
    findings = verdict(outcome)
    for claim, holds in findings:
        out.say(f"{'yes' if holds else 'NO ':<4}{claim}")
    if not all(holds for _, holds in findings):
        return Exit.JOB_FAILED
    out.say()
    _say_what_next()
    return Exit.DONE


def _say_what_next() -> None:
    from trainplane.demo.request import EXAMPLES

    trainplane = _command()
    out.say("What to try next:")
    out.say(f"  {trainplane} up                           the same, to stay; Ctrl-C ends it")
    out.say(f"  {trainplane} submit FILE --watch          requests that run as they are: {EXAMPLES.parent}")
    out.say(f"  {trainplane} jobs                         then: job, logs, events, cancel, nodes")
    out.say("  curl -H 'content-type: application/json' -d @FILE http://127.0.0.1:8080/train")


def _command() -> str:
    """How this user can call us: by name, or by the path of this environment."""
    import sys

    return "trainplane" if shutil.which("trainplane") else str(Path(sys.argv[0]))
