"""The request, described once: the validator, the defaults, docs/spec.md and the JSON Schema are made from this table.

Bounds are generous: they refuse what cannot be meant, not what is unwise. The order is that of the proto, whose fields
and types a test holds equal to these (ADR 0003).
"""

from __future__ import annotations

from functools import partial

from controlplane.domain.spec import shapes
from controlplane.domain.spec.field import Field, Kind
from trainplane.backends import gguf_support, sharding, truncation
from trainplane.backends.peft_methods import METHODS

_text = partial(Field, kind=Kind.TEXT)
_whole = partial(Field, kind=Kind.INTEGER)
_number = partial(Field, kind=Kind.NUMBER)
_flag = partial(Field, kind=Kind.FLAG)
_block = partial(Field, kind=Kind.BLOCK)
_map = partial(Field, kind=Kind.MAP)
_free = partial(Field, kind=Kind.FREE)

EVENT_TYPES = (
    "job.queued",
    "job.starting",
    "job.started",
    "job.phase_changed",
    "job.progress",
    "job.checkpoint_saved",
    "job.warning",
    "job.pausing",
    "job.paused",
    "job.recovering",
    "job.cancelling",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
)
DEFAULT_EVENTS = (
    "job.queued",
    "job.started",
    "job.checkpoint_saved",
    "job.paused",
    "job.recovering",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
)

_INT32 = 2**31 - 1
_URI_LENGTH = 2048

_STORAGE_AUTH = (
    _text(
        name="role_arn",
        shape=shapes.ROLE_ARN,
        max_length=2048,
        doc="An AWS role that is assumed for this location; absent: the agent's own credentials.",
    ),
)

_BASE_MODEL = (
    _text(
        name="provider",
        choices=("huggingface", "local", "s3"),
        default="huggingface",
        doc="Where the model is: on the hub, in a directory below an agent's allowed roots, or in S3.",
    ),
    _text(
        name="model_name",
        required=True,
        shape=shapes.MODEL_NAME,
        max_length=4096,
        doc="`owner/name` on the hub; an absolute path with provider `local`; `s3://bucket/prefix/` with `s3`.",
    ),
    _text(
        name="revision",
        shape=shapes.REVISION,
        default_note="`main` on the hub; none elsewhere",
        doc="Branch, tag or commit; resolved to a commit, which is recorded.",
    ),
    _text(
        name="auth_token",
        secret=True,
        shape=shapes.TOKEN,
        max_length=4096,
        doc="A token for the hub.",
    ),
    _text(
        name="weights_url",
        shape=shapes.WEIGHTS,
        max_length=_URI_LENGTH,
        doc="Where the weights come from instead: `s3://…/`, a whole model directory; or `https://….safetensors`, with "
        "configuration and tokenizer from model_name.",
    ),
)

_QLORA = (
    _flag(name="use_double_quant", default=True, doc="Quantize the quantization constants too."),
    _text(
        name="bnb_4bit_compute_dtype",
        choices=("bfloat16", "float16", "float32"),
        default="bfloat16",
        doc="The type that 4-bit weights are computed in.",
    ),
    _text(name="bnb_4bit_quant_type", choices=("nf4", "fp4"), default="nf4", doc="The 4-bit type."),
)

_PEFT = (
    _flag(name="use", default=True, doc="Train an adapter; false goes with method `full` only."),
    _free(
        name="config",
        default_note='`{"task_type": "CAUSAL_LM"}`',
        doc="Fields of the method's PEFT configuration class. One that has its own place must agree with it.",
    ),
)

_CUSTOMIZATION = (
    _text(
        name="method",
        required=True,
        choices=tuple(METHODS),
        doc="How the model is adapted.",
    ),
    _whole(
        name="rank",
        low=1,
        high=1024,
        default=16,
        doc="The adapter's rank; for `adalora` the mean one at the end.",
    ),
    _number(
        name="lora_alpha",
        low=0,
        above_low=True,
        high=65536,
        default_note="twice the rank",
        doc="Numerator of the adapter's scaling, lora_alpha / rank.",
    ),
    _number(name="lora_dropout", low=0, high=1, below_high=True, default=0, doc="Dropout before the adapter."),
    _text(
        name="target_modules",
        repeated=True,
        shape=shapes.MODULE,
        default=("all-linear",),
        doc="Modules to adapt, by name; `all-linear`: every linear layer but the head. For `layernorm` names of norms, "
        "every norm by default. A name that matches nothing fails the job.",
    ),
    _text(
        name="trainable_layers",
        repeated=True,
        shape=shapes.MODULE,
        doc="Restricts training to these blocks; `layers.N` is the N-th decoder block.",
    ),
    _text(
        name="precision",
        choices=("bf16", "fp16", "fp32"),
        default="bf16",
        doc="The type computed in; fp16 on GPUs only, with the loss scaled.",
    ),
    _block(name="qlora", fields=_QLORA, doc="Quantization of the base model; for method `qlora` only."),
    _block(name="peft", fields=_PEFT, doc="PEFT's own configuration."),
)

_RESOURCES = (
    _whole(name="gpus", low=0, high=1024, default=0, doc="GPUs, exclusive to the job; 0 trains on the CPU."),
    _text(
        name="gpu_type",
        shape=shapes.DEVICE_WORDS,
        max_length=64,
        default_note="any",
        doc="Words that must all occur in the device's name, in any case: `A100`, `A100-80GB`.",
    ),
    _whole(name="cpus", low=1, high=4096, default=1, doc="CPU cores, reserved and enforced."),
    _number(
        name="memory_gb",
        low=0,
        above_low=True,
        high=65536,
        default_note="1 is reserved, and nothing enforced",
        doc="GiB of host memory, reserved and enforced.",
    ),
    _number(
        name="max_duration_minutes",
        low=0,
        above_low=True,
        high=525600,
        default_note="no limit",
        doc="Minutes in STARTING and RUNNING over all attempts; then FAILED with DEADLINE_EXCEEDED.",
    ),
)

_DATASET = (
    _text(
        name="source",
        required=True,
        shape=shapes.SOURCE,
        max_length=_URI_LENGTH,
        doc="Where the rows are.",
    ),
    _text(
        name="format",
        choices=("jsonl", "json", "csv", "parquet", "text"),
        default_note="what the source's suffix says, else `jsonl`",
        doc="How the rows are written: an object a line, an array of objects, a table with a header, Parquet, or a "
        "text each of whose paragraphs is a row.",
    ),
    _block(name="auth", fields=_STORAGE_AUTH, doc="How the source is read."),
    _text(name="split", choices=("train", "eval"), default="train", doc="What the rows are for."),
    _map(
        name="columns",
        keys=("text", "prompt", "completion", "instruction", "input", "output", "messages"),
        max_items=7,
        doc="Maps names that training knows to the source's own names.",
    ),
    _number(
        name="weight",
        low=0,
        above_low=True,
        high=1_000_000,
        default_note="no source has one: every example once an epoch; beside others that have one: 1",
        doc="Share of the training examples, relative to the other sources of split `train`.",
    ),
)

_ARTIFACTS = (
    _text(
        name="log_uri",
        shape=shapes.PREFIX,
        max_length=_URI_LENGTH,
        default_note="the platform's log prefix and the job's id; without one, the control plane keeps the logs",
        doc="Prefix for logs, shipped while the job runs.",
    ),
    _text(
        name="status_stream_url",
        shape=shapes.CALLED_URL,
        max_length=_URI_LENGTH,
        doc="Gets every event of the job, in order, as CloudEvents batches.",
    ),
    _text(
        name="output_uri",
        shape=shapes.PREFIX,
        max_length=_URI_LENGTH,
        default_note="the platform's output prefix and the job's id; without one, required",
        doc="Prefix for the adapter and its manifest.",
    ),
    _block(name="auth", fields=_STORAGE_AUTH, doc="How these locations are accessed."),
    _flag(name="overwrite", default=False, doc="Allow an output prefix that holds another job's manifest."),
)

_TUNING = (
    _number(name="learning_rate", low=0, above_low=True, high=10, default=2e-4, doc="Peak learning rate."),
    _whole(
        name="batch_size",
        low=1,
        high=65536,
        default=8,
        doc="Examples per optimizer step over all devices together; a multiple of their number.",
    ),
    _number(
        name="num_epochs",
        low=0,
        above_low=True,
        high=10000,
        default=1,
        doc="Passes over the data; may be fractional.",
    ),
    _number(
        name="warmup_ratio",
        low=0,
        high=1,
        default=0,
        doc="Share of the steps over which the learning rate rises to its peak.",
    ),
    _flag(name="gradient_checkpointing", default=False, doc="Trade computation for memory."),
    _whole(
        name="max_sequence_length",
        low=8,
        high=1_048_576,
        default=2048,
        doc="Tokens per example; what becomes of longer ones says `truncation`. They are counted.",
    ),
    _whole(
        name="max_steps",
        low=1,
        high=_INT32,
        default_note="no limit",
        doc="Ends training after so many optimizer steps, whatever num_epochs says.",
    ),
    _whole(name="seed", low=0, high=_INT32, default=0, doc="Seeds order, initialisation and dropout."),
    _number(name="weight_decay", low=0, high=10, default=0, doc="Weight decay."),
    _text(
        name="lr_scheduler",
        choices=("linear", "cosine", "constant"),
        default="linear",
        doc="The learning rate's course after warm-up.",
    ),
    _text(
        name="optimizer",
        choices=("adamw",),
        later=("adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "sgd"),
        default="adamw",
        doc="The optimizer.",
    ),
    _number(
        name="max_grad_norm",
        low=0,
        above_low=True,
        high=1_000_000,
        default=1,
        doc="Gradients are clipped to this norm.",
    ),
    _flag(
        name="packing",
        default=False,
        doc="Compute several examples in one row, where they do not see each other; batch_size counts examples "
        "all the same.",
    ),
    _number(
        name="eval_fraction",
        low=0,
        above_low=True,
        high=1,
        below_high=True,
        doc="Share of the training rows held out for evaluation; a row and its duplicates are on one side.",
    ),
    _whole(
        name="checkpoint_steps",
        low=1,
        high=_INT32,
        default_note="every 5 minutes",
        doc="Optimizer steps between checkpoints, from which a later attempt goes on.",
    ),
    _whole(name="checkpoint_limit", low=1, high=1000, default_note="2", doc="Checkpoints kept."),
    _number(
        name="neftune_noise_alpha",
        low=0,
        above_low=True,
        high=1000,
        default_note="no noise",
        doc="Noise on the embeddings while training, as NEFTune has it.",
    ),
    _text(
        name="chat_template",
        shape=shapes.TEMPLATE,
        max_length=65536,
        default_note="the tokenizer's own",
        doc="A chat template in Jinja, for `messages` and a tokenizer without one.",
    ),
    _text(
        name="sharding",
        choices=sharding.CHOICES,
        default_note="`auto`",
        doc="Whether each of the job's devices holds a part of the model instead of all of it: `full`, `none`, or "
        "`auto`, where it does not fit one.",
    ),
    _text(
        name="truncation",
        choices=truncation.CHOICES,
        default_note="`right`",
        doc="What becomes of an example longer than max_sequence_length: `right` cuts off its end, `left` its "
        "beginning, `drop` leaves it out, `error` fails the job before training.",
    ),
)

_CALLBACKS = (
    _text(
        name="webhook_url",
        shape=shapes.CALLED_URL,
        max_length=_URI_LENGTH,
        doc="Gets CloudEvents by POST, signed as Standard Webhooks says.",
    ),
    _text(
        name="auth_header",
        secret=True,
        shape=shapes.HEADER_VALUE,
        max_length=8192,
        doc="Sent to webhook_url only, as Authorization.",
    ),
    _text(
        name="events",
        repeated=True,
        choices=EVENT_TYPES,
        default_note=", ".join(name.removeprefix("job.") for name in DEFAULT_EVENTS),
        doc="Event types to send.",
    ),
)

_PLACEMENT = (
    _text(
        name="runner",
        choices=("local",),
        later=("kubernetes", "slurm", "sagemaker"),
        default="local",
        doc="Where an attempt's trainer is launched.",
    ),
    _text(
        name="node",
        shape=shapes.NODE_NAME,
        max_length=63,
        default_note="any",
        doc="This node and no other.",
    ),
    _map(
        name="labels",
        key_shape=shapes.LABEL_KEY,
        max_items=64,
        max_length=63,
        doc="Labels that the node must have.",
    ),
)

_EXPORT = (
    _flag(
        name="merged", default=False, doc="The base model with the adapter merged in, as a model's directory `merged/`."
    ),
    _flag(
        name="gguf",
        default=False,
        doc="The same as one GGUF file, in `gguf/`; of models of Llama's or Mistral's architecture.",
    ),
    _text(
        name="push_to_hub",
        shape=shapes.HUB_REPOSITORY,
        max_length=193,
        doc="A hub repository that the output is pushed to, too, with base_model.auth_token; a new one is private.",
    ),
    _text(
        name="gguf_type",
        choices=gguf_support.TYPES,
        default_note="that of customization.precision",
        doc="The type of the weights in it; vectors are f32.",
    ),
)

FIELDS = (
    _text(
        name="job_id",
        shape=shapes.JOB_ID,
        max_length=63,
        default_note="generated",
        doc="Your own name for the job. The same id with the same spec is the same job; with another it is refused.",
    ),
    _block(name="base_model", fields=_BASE_MODEL, required=True, doc="The model to start from."),
    _block(name="customization", fields=_CUSTOMIZATION, required=True, doc="What is trained and how."),
    _block(name="resources", fields=_RESOURCES, doc="What the job needs of a node."),
    _block(name="datasets", fields=_DATASET, repeated=True, required=True, doc="What to train on, in this order."),
    _block(name="artifacts", fields=_ARTIFACTS, doc="Where results go."),
    _block(name="tuning_parameters", fields=_TUNING, doc="How training proceeds."),
    _block(name="callbacks", fields=_CALLBACKS, doc="Who is called when something happens."),
    _text(
        name="backend",
        shape=shapes.BACKEND,
        max_length=63,
        default="peft",
        doc="The training engine: one of `GET /backends`; `mock` in dev mode only.",
    ),
    _free(name="backend_options", doc="Options of that engine, checked by it."),
    _block(name="placement", fields=_PLACEMENT, doc="Wishes about where the job runs."),
    _map(
        name="labels",
        key_shape=shapes.LABEL_KEY,
        max_items=64,
        max_length=63,
        doc="Your own keys and values, to list jobs by.",
    ),
    _whole(name="priority", low=0, high=100, default=50, doc="Higher is placed first; equal ones by age."),
    _whole(
        name="max_attempts",
        low=1,
        high=100,
        default=3,
        doc="How many attempts may fail before the job does; lost nodes do not count.",
    ),
    _block(name="export", fields=_EXPORT, doc="What is produced beside the adapter."),
)
