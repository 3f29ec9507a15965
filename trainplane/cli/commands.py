"""The commands, put together."""

from __future__ import annotations

import typer

from trainplane.cli import checkpoints, demo, events, jobs, logs, metrics, nodes, submit, up, validate, watch

app = typer.Typer(
    name="trainplane",
    help="Fine-tune models on your own GPUs. Start with `trainplane up`, or `trainplane demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("submit")(submit.submit)
app.command("validate")(validate.validate)
app.command("jobs")(jobs.jobs)
app.command("job")(jobs.job)
app.command("watch")(watch.watch)
app.command("logs")(logs.logs)
app.command("metrics")(metrics.metrics)
app.command("checkpoints")(checkpoints.checkpoints)
app.command("events")(events.events)
app.command("cancel")(jobs.cancel)
app.add_typer(nodes.app, name="nodes")
