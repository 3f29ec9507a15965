"""Requests that must be refused, as data: each door's tests post every one of them.

`BAD_BODIES` are no readable spec at all, so only a door that takes bytes can be given them. `BAD_SPECS` are readable
JSON objects: a typed door takes those that its message can hold. Rows about single fields are made from the field table,
so a new field is attacked by existing.
"""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.domain.spec.field import Field, Kind, walk
from controlplane.domain.spec.fields import FIELDS
from tests.support.bad_methods import BAD_METHODS
from tests.support.bad_uris import BAD_PLACES, HIDDEN_URLS, MALFORMED_URLS

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = (Path(__file__).parents[2] / "examples" / "seed-train-request.json").read_bytes()

#: A right request without any remote place, so that numbers can be turned without contradicting others.
LOCAL: dict[str, Any] = {
    "job_id": "local-job",
    "base_model": {"provider": "local", "model_name": "/models/small"},
    "customization": {"method": "lora"},
    "datasets": [{"source": "file:///data/train.jsonl"}],
    "artifacts": {"output_uri": "file:///results/local-job/"},
}

#: Stand in every bad spec that can hold them, and must come back in no answer.
CANARIES = ("hf_canary_4711", "Bearer canary-0815")

ABSENT = object()


@dataclass(frozen=True)
class BadRequest:
    """A body, and what must be said of it.

    Attributes:
        expected: every (field, reason) of the answer, exactly these.
        spec: the body as parsed, if it is a JSON object.
        code: the gRPC code.
    """

    name: str
    body: bytes
    expected: tuple[tuple[str, str], ...]
    spec: dict[str, Any] | None = None
    code: str = "INVALID_ARGUMENT"


def seed_spec() -> dict[str, Any]:
    """A fresh copy of the users' own request, with canaries for its secrets."""
    spec: dict[str, Any] = json.loads(SEED)
    spec["base_model"]["auth_token"], spec["callbacks"]["auth_header"] = CANARIES
    return spec


def changed(spec: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field set (or taken out: ABSENT); `datasets[]` means the first."""
    spec = copy.deepcopy(spec)
    *parents, last = path.split(".")
    place: Any = spec
    for name in parents:
        place = place[name.removesuffix("[]")][0] if name.endswith("[]") else place.setdefault(name, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return spec


def told(path: str) -> str:
    """A table's path as an answer writes it when the first dataset is meant."""
    return path.replace("[]", "[0]")


def _bad(name: str, spec: dict[str, Any], *expected: tuple[str, str]) -> BadRequest:
    return BadRequest(name, json.dumps(spec).encode(), expected, spec)


def _seed(name: str, path: str, value: Any, *expected: tuple[str, str]) -> BadRequest:
    return _bad(name, changed(seed_spec(), path, value), *expected)


def _local(name: str, path: str, value: Any, *expected: tuple[str, str]) -> BadRequest:
    return _bad(name, changed(LOCAL, path, value), *expected)


def _text(name: str, body: bytes | str, field: str, reason: str) -> BadRequest:
    return BadRequest(name, body if isinstance(body, bytes) else body.encode(), ((field, reason),))


def _in_seed(old: str, new: str) -> bytes:
    changed_body = SEED.decode().replace(old, new, 1)
    if changed_body == SEED.decode():
        raise ValueError(f"{old!r} is not in the seed")
    return changed_body.encode("utf-8", errors="surrogatepass")


def _bodies() -> Iterator[BadRequest]:
    yield _text("empty body", b"", "", "EMPTY_BODY")
    yield _text("whitespace", b" \r\n\t ", "", "EMPTY_BODY")
    yield _text("an array", b"[]", "", "WRONG_TYPE")
    yield _text("null", b"null", "", "WRONG_TYPE")
    yield _text("a string", b'"lora"', "", "WRONG_TYPE")
    yield _text("a number", b"7", "", "WRONG_TYPE")
    yield _text("truncated", SEED[: len(SEED) // 2], "", "INVALID_JSON")
    yield _text("trailing garbage", SEED.rstrip() + b"}", "", "INVALID_JSON")
    yield _text("two objects", b"{} {}", "", "INVALID_JSON")
    yield _text("single quotes", b"{'job_id': 'x'}", "", "INVALID_JSON")
    yield _text("unquoted key", b'{job_id: "x"}', "", "INVALID_JSON")
    yield _text("trailing comma", b'{"job_id": "x",}', "", "INVALID_JSON")
    yield _text("comment", b'{"job_id": "x" /* mine */}', "", "INVALID_JSON")
    yield _text("byte order mark", b"\xef\xbb\xbf" + SEED, "", "INVALID_JSON")
    yield _text("UTF-16", SEED.decode().encode("utf-16"), "", "INVALID_JSON")
    yield _text("UTF-16 without a mark", SEED.decode().encode("utf-16-be"), "", "INVALID_JSON")
    yield _text("UTF-32", SEED.decode().encode("utf-32-le"), "", "INVALID_JSON")
    yield _text("gzip", gzip.compress(SEED), "", "INVALID_JSON")
    yield _text("Latin-1", b'{"job_id": "\xe9"}', "", "INVALID_JSON")
    yield _text("encoded surrogate", b'{"job_id": "\xed\xa0\x80"}', "", "INVALID_JSON")
    yield _text("raw control character", _in_seed("unique-train-id", "unique\x07id"), "", "INVALID_JSON")
    yield _text("raw line feed in a string", _in_seed("Bearer mytoken", "Bearer\nmytoken"), "", "INVALID_JSON")
    yield _text("raw NUL", _in_seed("unique-train-id", "unique\x00id"), "", "INVALID_JSON")
    yield _text("escaped NUL", _in_seed("unique-train-id", "unique\\u0000id"), "job_id", "MALFORMED")
    yield _text("lone surrogate", _in_seed("A100", "\\ud800"), "resources.gpu_type", "MALFORMED")
    yield _text("lone surrogate in a key", b'{"labels": {"\\udc00": "x"}}', "labels.'\\udc00'", "MALFORMED")
    yield _text("NaN", _in_seed("2e-4", "NaN"), "tuning_parameters.learning_rate", "INVALID_JSON")
    yield _text("Infinity", _in_seed("2e-4", "-Infinity"), "tuning_parameters.learning_rate", "INVALID_JSON")
    yield _text("1e400", _in_seed("2e-4", "1e400"), "tuning_parameters.learning_rate", "OUT_OF_RANGE")
    yield _text("5,000 digits", _in_seed("64", "9" * 5000), "tuning_parameters.batch_size", "OUT_OF_RANGE")
    yield _text("5,000 digits in an array", b'{"datasets": [1, %s]}' % (b"9" * 5000), "datasets[1]", "OUT_OF_RANGE")
    yield _text("duplicate key at the top", _in_seed("{", '{"job_id": "other", '), "job_id", "DUPLICATE_FIELD")
    yield _text(
        "duplicate nested key", _in_seed('"rank": 16', '"rank": 16, "rank": 8'), "customization.rank", "DUPLICATE_FIELD"
    )
    yield _text(
        "duplicate key in an array",
        _in_seed('"format": "jsonl"', '"format": "jsonl", "format": "jsonl"'),
        "datasets[0].format",
        "DUPLICATE_FIELD",
    )
    yield _text("50 deep", b'{"backend_options": %s1%s}' % (b'{"a":' * 50, b"}" * 50), "", "TOO_DEEP")
    yield _text("5,000 deep", b"[" * 5000 + b"]" * 5000, "", "TOO_DEEP")
    yield _text("100,000 deep, unclosed", b'{"a":' * 50_000, "", "TOO_DEEP")
    yield _text("256 KiB and one byte", SEED + b" " * (256 * 1024 + 1 - len(SEED)), "", "BODY_TOO_LARGE")


def _unknown_fields() -> Iterator[BadRequest]:
    yield _seed("unknown top field", "epochs", 3, ("epochs", "UNKNOWN_FIELD"))
    yield _seed(
        "misspelt field", "tuning_parameters.learning_rat", 1, ("tuning_parameters.learning_rat", "UNKNOWN_FIELD")
    )
    yield _seed("unknown field in an array", "datasets[].sorce", "s3://b/k", ("datasets[0].sorce", "UNKNOWN_FIELD"))
    yield _seed("camel case twin", "customization.loraAlpha", 32, ("customization.loraAlpha", "DUPLICATE_FIELD"))
    spec = changed(seed_spec(), "resources.memory_gb", ABSENT)
    yield _bad("camel case", changed(spec, "resources.memoryGb", 128), ("resources.memoryGb", "UNKNOWN_FIELD"))
    yield _seed(
        "a secret in a misspelt field", "base_model.auth_tokn", CANARIES[0], ("base_model.auth_tokn", "UNKNOWN_FIELD")
    )
    yield _seed("HttpBody's own field", "data", "e30=", ("data", "UNKNOWN_FIELD"))
    many = {f"f{number}": number for number in range(1000)}
    yield _bad("1,000 violations", seed_spec() | many, *((name, "UNKNOWN_FIELD") for name in many))


def _values() -> Iterator[BadRequest]:
    for digits in (50, 4000):
        huge = changed(seed_spec(), "tuning_parameters.batch_size", int("9" * digits))
        wrong = ("tuning_parameters.batch_size", "OUT_OF_RANGE"), ("customization.rank", "OUT_OF_RANGE")
        yield _bad(f"{digits} digits, and more that is wrong", changed(huge, "customization.rank", 0), *wrong)
    for path in (
        "base_model.model_name",
        "customization.method",
        "datasets[].source",
        "datasets",
        "base_model",
        "customization",
    ):
        for name, value in (("without", ABSENT), ("null for", None)):
            yield _seed(f"{name} {path}", path, value, (told(path), "REQUIRED"))
    yield _seed("no datasets", "datasets", [], ("datasets", "EMPTY"))
    yield _seed("1,001 datasets", "datasets", [{"source": "s3://bucket/k"}] * 1001, ("datasets", "TOO_MANY"))
    yield _seed("a dataset that is null", "datasets", [None], ("datasets[0]", "WRONG_TYPE"))
    yield _seed(
        "NaN in quotes", "tuning_parameters.learning_rate", "NaN", ("tuning_parameters.learning_rate", "WRONG_TYPE")
    )
    yield _seed("true for a number", "customization.rank", True, ("customization.rank", "WRONG_TYPE"))
    yield _seed("a fraction for a whole number", "customization.rank", 16.5, ("customization.rank", "WRONG_TYPE"))
    yield _seed(
        "1 for a flag",
        "tuning_parameters.gradient_checkpointing",
        1,
        ("tuning_parameters.gradient_checkpointing", "WRONG_TYPE"),
    )
    yield _seed(
        "a module twice",
        "customization.target_modules",
        ["q", "q"],
        ("customization.target_modules[1]", "DUPLICATE_VALUE"),
    )
    yield _seed(
        "a module that is empty", "customization.target_modules", [""], ("customization.target_modules[0]", "EMPTY")
    )
    yield _seed("an unknown event", "callbacks.events", ["job.done"], ("callbacks.events[0]", "UNKNOWN_VALUE"))
    for path in (
        "customization.method",
        "customization.precision",
        "datasets[].format",
        "base_model.provider",
        "backend",
    ):
        yield _seed(f"unknown {path}", path, "turbo", (told(path), "UNKNOWN_VALUE"))
    yield _seed("job_id of 64", "job_id", "x" * 64, ("job_id", "TOO_LONG"))
    for job_id in ("a b", "a.b", "a/b", "é", "a\n"):
        yield _seed(f"job_id {job_id!r}", "job_id", job_id, ("job_id", "MALFORMED"))
    yield _seed("mock outside dev mode", "backend", "mock", ("backend", "NOT_ALLOWED"))
    yield _seed("an option that peft lacks", "backend_options.steps", 3, ("backend_options.steps", "UNKNOWN_FIELD"))
    for name, labels, field in (
        ("a label's key with =", {"a=b": "c"}, "labels.'a=b'"),
        ("a label's key too long", {"k" * 64: "v"}, "labels.'" + "k" * 59 + "…"),
        ("a label's value with a line feed", {"team": "a\nb"}, "labels.team"),
    ):
        yield _seed(name, "labels", labels, (field, "MALFORMED"))
    yield _seed("a label's value too long", "labels", {"team": "v" * 64}, ("labels.team", "TOO_LONG"))
    yield _seed("a label's value that is a number", "labels", {"team": 1}, ("labels.team", "WRONG_TYPE"))
    yield _seed("a label's value that is null", "labels", {"team": None}, ("labels.team", "WRONG_TYPE"))
    yield _seed("65 labels", "labels", {f"k{number}": "v" for number in range(65)}, ("labels", "TOO_MANY"))
    yield _seed(
        "an unknown column", "datasets[].columns", {"texts": "body"}, ("datasets[0].columns.texts", "UNKNOWN_FIELD")
    )


def _names() -> Iterator[BadRequest]:
    hub = (
        "../../etc",
        "/abs",
        "-x",
        "a" * 300,
        "owner/na..me",
        "owner/-x",
        "a/b/c",
        "owner/",
        "o--x/name",
        "bert",
        "owner/ñ",
    )
    for name in hub:
        yield _seed(f"hub id {name[:20]}", "base_model.model_name", name, ("base_model.model_name", "MALFORMED"))
    for name in ("models/x", "/models/../etc", "../x", "//host/x", "~/x"):
        yield _local(f"local model {name}", "base_model.model_name", name, ("base_model.model_name", "MALFORMED"))
    for name in (
        "owner/name",
        "/models/x",
        "https://host/x",
        "s3://",
        "s3://bucket",
        "s3://bucket/a/../b",
        "s3://b@d/x",
    ):
        model = {"provider": "s3", "model_name": name}
        yield _local(f"model in S3 {name}", "base_model", model, ("base_model.model_name", "MALFORMED"))
    twice = {"provider": "s3", "model_name": "s3://bucket/x/", "weights_url": "s3://bucket/y/"}
    yield _local("weights besides a model in S3", "base_model", twice, ("base_model.weights_url", "CONTRADICTION"))
    for base_model in (
        {"provider": "s3", "model_name": "s3://b00/m/"},
        {"model_name": "o/n", "weights_url": "s3://b00/m/"},
    ):
        inside = changed(LOCAL, "base_model", base_model)
        inside = changed(inside, "artifacts", {"output_uri": "s3://b00/m/out/"})
        yield _bad(f"output inside {sorted(base_model)}", inside, ("artifacts.output_uri", "CONTRADICTION"))
    for revision in ("main;rm -rf", "a..b", "-x", "/main", "a//b", "a b", "$(id)"):
        yield _seed(f"revision {revision}", "base_model.revision", revision, ("base_model.revision", "MALFORMED"))
    for arn in (
        "FineTune",
        "arn:aws:iam::abc:role/x",
        "arn:aws:iam::123:user/x",
        "arn:aws:iam::123:role/",
        "arn:aws:iam::123:role/a b",
    ):
        yield _seed(f"role {arn}", "datasets[].auth.role_arn", arn, ("datasets[0].auth.role_arn", "MALFORMED"))
    for value in ("Bearer\r\nX-Evil: 1", "Bearer\nx", "Bearer \x00", "Bearer é", " Bearer x", "x\ty"):
        yield _seed(f"header {value!r}", "callbacks.auth_header", value, ("callbacks.auth_header", "MALFORMED"))
    yield _seed("token with a line feed", "base_model.auth_token", "hf\nx", ("base_model.auth_token", "MALFORMED"))
    yield _seed("device name with a bracket", "resources.gpu_type", "A100[", ("resources.gpu_type", "MALFORMED"))
    yield _seed("node with a dot", "placement.node", "a.b", ("placement.node", "MALFORMED"))
    yield _seed("node with a wildcard", "placement.node", "*", ("placement.node", "MALFORMED"))


def _places() -> Iterator[BadRequest]:
    for place in BAD_PLACES:
        reason = "MALFORMED" if place else "EMPTY"
        for path in ("datasets[].source", "artifacts.output_uri"):
            yield _seed(f"{path} {place[:40]}", path, place, (told(path), reason))
    yield _seed("a bucket as a dataset", "datasets[].source", "s3://bucket/", ("datasets[0].source", "MALFORMED"))
    for place in ("hf:name", "hf:../name", "hf:owner/name@", "hf:owner/na..me", "hf:owner/name@a..b", "HF:owner/name"):
        yield _seed(f"source {place}", "datasets[].source", place, ("datasets[0].source", "MALFORMED"))
    for place in ("https://user:pw@host/rows.jsonl", "https://host/rows.jsonl#a", "http://host/rows.jsonl"):
        yield _seed(f"source {place}", "datasets[].source", place, ("datasets[0].source", "MALFORMED"))
    for place in ("https://10.0.0.1/rows.jsonl", "https://169.254.169.254/rows.jsonl", "https://localhost/rows.jsonl"):
        yield _seed(f"source {place}", "datasets[].source", place, ("datasets[0].source", "NOT_ALLOWED"))
    for place in ("http://host/x.safetensors", "https://host/x.bin", "file:///x.safetensors"):
        yield _seed(f"weights {place}", "base_model.weights_url", place, ("base_model.weights_url", "MALFORMED"))
    inside = "https://10.0.0.1/x.safetensors"
    yield _seed(
        "weights on a private host", "base_model.weights_url", inside, ("base_model.weights_url", "NOT_ALLOWED")
    )


def _urls() -> Iterator[BadRequest]:
    for path in ("callbacks.webhook_url", "artifacts.status_stream_url"):
        for url in HIDDEN_URLS:
            yield _seed(f"{path} {url}", path, url, (path, "NOT_ALLOWED"))
        for url in MALFORMED_URLS:
            yield _seed(f"{path} {url!r}", path, url, (path, "MALFORMED"))


def _contradictions() -> Iterator[BadRequest]:
    said = "CONTRADICTION"
    yield _seed("no adapter with lora", "customization.peft.use", False, ("customization.peft.use", said))
    full = changed(seed_spec(), "customization.method", "full")
    own = ("rank", "lora_alpha", "lora_dropout", "target_modules", "peft.use")
    yield _bad(
        "an adapter's fields with full",
        full,
        *((f"customization.{name}", said) for name in own),
        ("customization.peft.config", said),
    )
    yield _seed(
        "layers of a prompt method",
        "customization.method",
        "p_tuning",
        *((f"customization.{name}", said) for name in own[:4]),
        ("customization.trainable_layers", said),
    )
    both = changed(LOCAL, "tuning_parameters", {"eval_fraction": 0.1})
    both["datasets"].append({"source": "file:///data/eval.jsonl", "split": "eval"})
    yield _bad("two ways to evaluate", both, ("tuning_parameters.eval_fraction", said))
    for method, block, field in BAD_METHODS:
        custom = {"method": method, **block}
        yield _local(f"{field} of {method}", "customization", custom, (f"customization.{field}", said))
    half = {"method": "lora", "precision": "fp16"}
    yield _local("fp16 on a CPU", "customization", half, ("customization.precision", said))
    sharded = changed(LOCAL, "tuning_parameters.sharding", "full")
    yield _bad("nothing to shard over", sharded, ("tuning_parameters.sharding", said))
    whole = changed(
        changed(sharded, "resources", {"gpus": 2}), "customization", {"method": "full", "precision": "fp16"}
    )
    yield _bad("full in fp16, sharded", whole, ("tuning_parameters.sharding", "NOT_YET_SUPPORTED"))
    yield _local("a push without a token", "export", {"push_to_hub": "owner/name"}, ("export.push_to_hub", said))
    for name in ("name", "owner/name/more", "../name", "owner/-", "https://hub/owner/name"):
        yield _local(f"a push to {name}", "export", {"push_to_hub": name}, ("export.push_to_hub", "MALFORMED"))
    for method in ("prompt_tuning", "prefix_tuning", "p_tuning", "full"):
        trained = changed(LOCAL, "customization", {"method": method})
        yield _bad(f"{method}, merged", changed(trained, "export", {"merged": True}), ("export.merged", said))
        if method != "full":
            yield _bad(f"{method} as GGUF", changed(trained, "export", {"gguf": True}), ("export.gguf", said))
    prefix = changed(LOCAL, "customization", {"method": "prefix_tuning"})
    yield _bad(
        "a prefix and recomputed activations",
        changed(prefix, "tuning_parameters.gradient_checkpointing", True),
        ("tuning_parameters.gradient_checkpointing", said),
    )
    yield _seed(
        "another rank in peft.config", "customization.peft.config", {"r": 8}, ("customization.peft.config.r", said)
    )
    yield _seed(
        "another task",
        "customization.peft.config",
        {"task_type": "SEQ_CLS"},
        ("customization.peft.config.task_type", said),
    )
    yield _seed(
        "another method in peft.config",
        "customization.peft.config",
        {"peft_type": "IA3"},
        ("customization.peft.config.peft_type", said),
    )
    yield _seed(
        "a batch that 4 GPUs cannot share", "tuning_parameters.batch_size", 62, ("tuning_parameters.batch_size", said)
    )
    yield _seed("logs where results go", "artifacts.log_uri", "s3://bucket/models/job-id", ("artifacts.log_uri", said))
    yield _seed(
        "results where the rows are",
        "artifacts.output_uri",
        "s3://bucket/dataset.jsonl",
        ("artifacts.output_uri", said),
    )
    yield _seed(
        "results below the rows",
        "artifacts.output_uri",
        "s3://bucket/./dataset.jsonl/out/",
        ("artifacts.output_uri", said),
    )
    yield _local(
        "results in the model's directory",
        "artifacts.output_uri",
        "file:///models/small/out/",
        ("artifacts.output_uri", said),
    )
    yield _local(
        "results below encoded rows",
        "artifacts.output_uri",
        "file:///data/%74rain.jsonl/x/",
        ("artifacts.output_uri", said),
    )
    yield _local("nothing to train on", "datasets[].split", "eval", ("datasets", said))
    yield _local("no place for results", "artifacts.output_uri", None, ("artifacts.output_uri", "REQUIRED"))


def _later() -> Iterator[BadRequest]:
    said = "NOT_YET_SUPPORTED"
    for path, field in walk(FIELDS):
        for word in field.later:
            yield _local(f"later {path} {word}", path, word, (told(path), said))


def _peft_config() -> Iterator[BadRequest]:
    """Each on its own in `customization.peft.config`: a field of PEFT's with a value, and the reason that refuses it."""
    for name, value, reason in (
        ("use_rslorra", True, "UNKNOWN_FIELD"),
        ("use_rslora", "yes", "WRONG_TYPE"),
        ("use_rslora", 1, "WRONG_TYPE"),
        ("bias", "some", "UNKNOWN_VALUE"),
        ("bias", ["all"], "WRONG_TYPE"),
        ("bias", "all", "CONTRADICTION"),
        ("modules_to_save", ["lm_head"], "CONTRADICTION"),
        ("init_lora_weights", "loftq", "NOT_YET_SUPPORTED"),
        ("init_lora_weights", "lora_ga", "NOT_YET_SUPPORTED"),
        ("init_lora_weights", "corda", "NOT_YET_SUPPORTED"),
        ("init_lora_weights", "pissa_niter_4", "NOT_YET_SUPPORTED"),
        ("init_lora_weights", "turbo", "UNKNOWN_VALUE"),
        ("rank_pattern", {"q_proj": 0}, "OUT_OF_RANGE"),
        ("rank_pattern", {"q_proj": 2.5}, "OUT_OF_RANGE"),
        ("rank_pattern", {"q_(proj": 4}, "MALFORMED"),
        ("alpha_pattern", {"q_proj": 0}, "OUT_OF_RANGE"),
        ("layers_to_transform", [-1], "OUT_OF_RANGE"),
        ("layers_to_transform", "0", "WRONG_TYPE"),
        ("layers_pattern", "h", "NOT_YET_SUPPORTED"),
        ("exclude_modules", "(", "MALFORMED"),
        ("megatron_core", "os", "NOT_ALLOWED"),
        ("base_model_name_or_path", "/etc", "NOT_ALLOWED"),
        ("revision", "main", "NOT_ALLOWED"),
        ("auto_mapping", {"base_model_class": "x"}, "NOT_ALLOWED"),
        ("trainable_token_indices", [1], "NOT_YET_SUPPORTED"),
    ):
        path = "customization.peft.config"
        yield _local(f"peft.config.{name} {value!r}", path, {name: value}, (f"{path}.{name}", reason))


def wrong_value(field: Field) -> Any:
    """A value of a type that the field never takes; a secret gets one that would show if it were told."""
    if field.secret:
        return [CANARIES[0]]
    return 7 if field.repeated or (field.kind is not Kind.INTEGER and field.kind is not Kind.NUMBER) else "7"


def beyond(field: Field) -> tuple[float, float]:
    """The nearest values that a number's bounds leave out, low and high."""
    if field.low is None or field.high is None:
        raise TypeError(f"{field.name} has no bounds")
    if field.kind is Kind.INTEGER:
        return field.low - 1, field.high + 1
    low = field.low if field.above_low else field.low - 1e-9
    return low, field.high if field.below_high else field.high * (1 + 1e-9)


def _from_the_table() -> Iterator[BadRequest]:
    for path, field in walk(FIELDS):
        if field.not_yet:
            continue
        yield _local(f"wrong type for {path}", path, wrong_value(field), (told(path), "WRONG_TYPE"))
        if field.kind in {Kind.INTEGER, Kind.NUMBER}:
            for value in (*beyond(field), -(2**63), 2**63, 1e300):
                yield _local(f"{path} of {value}", path, value, (told(path), "OUT_OF_RANGE"))


BAD_BODIES = tuple(_bodies())
BAD_SPECS = (
    *_unknown_fields(),
    *_values(),
    *_names(),
    *_places(),
    *_urls(),
    *_contradictions(),
    *_later(),
    *_peft_config(),
    *_from_the_table(),
)
BAD_REQUESTS = BAD_BODIES + BAD_SPECS
