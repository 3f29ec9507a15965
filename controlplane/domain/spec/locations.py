"""URIs in a spec: where data comes from, where results go, and whom we call.

Each kind accepts the ordinary URI by one pattern, and looks closer at any other. A URI is never repeated in a
description: it may carry credentials. Nothing is resolved and nothing is opened here.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from controlplane.domain.spec.problem import MALFORMED, NOT_ALLOWED, Problem
from trainplane.addresses import literal_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from controlplane.domain.spec.rules import Rules

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HOST_NAME = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?", re.IGNORECASE
)
#: A path of segments that do not begin with a dot, and without `%`: nothing in it can climb.
_PLAIN_PATH = r"(?:/[A-Za-z0-9_=+-][A-Za-z0-9_=+.-]*)+/?"
_PLAIN_S3 = rf"(?!.{{1000}})s3://[a-z0-9][a-z0-9-]{{1,61}}[a-z0-9]{_PLAIN_PATH}"
#: A name under a top level that begins with a letter is no address; `localhost` is looked at closer.
_PLAIN_URL = (
    r"https?://(?![a-z0-9.-]*localhost|[^/]{253})[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\.[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?::[1-9][0-9]{0,3})?(?:/[A-Za-z0-9._~/-]*)?"
)

_HUB_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_DATASET = re.compile(rf"(?!.*(?:\.\.|--|//))hf:{_HUB_NAME}/{_HUB_NAME}(?:@[A-Za-z0-9][A-Za-z0-9._/-]{{0,254}})?")
_SOURCE_SAYS = "file:///…, s3://bucket/key, https://… or hf:owner/name@revision"


@dataclass(frozen=True, slots=True)
class Kind:
    """One use of URIs: what it may be, in words, by a pattern for the ordinary, and by a closer look."""

    says: str
    accepts: re.Pattern[str] | None
    problem: Callable[[str, Rules], Problem | None]


def _source(text: str, rules: Rules) -> Problem | None:
    scheme = _scheme(text)
    if scheme == "hf":
        return None if _HUB_DATASET.fullmatch(text) else (MALFORMED, "must be hf:owner/name or hf:owner/name@revision")
    if text.startswith("https://"):
        if "@" in text.split("/", 3)[2]:
            return MALFORMED, "must have no user name or password in it"
        return _called(text, rules)
    if scheme not in {"s3", "file"}:
        return MALFORMED, f"must be {_SOURCE_SAYS}"
    return _stored(text, scheme=scheme, whole_bucket=False, rules=rules)


def _prefix(text: str, rules: Rules) -> Problem | None:
    scheme = _scheme(text)
    if scheme not in {"s3", "file"}:
        return MALFORMED, "must be file:///… or s3://bucket/prefix/"
    return _stored(text, scheme=scheme, whole_bucket=True, rules=rules)


def _weights(text: str, rules: Rules) -> Problem | None:
    scheme = _scheme(text)
    if scheme == "s3":
        return _stored(text, scheme="s3", whole_bucket=False, rules=rules)
    if scheme != "https":
        return MALFORMED, "must be s3://bucket/prefix/ or https://….safetensors"
    if not text.endswith(".safetensors"):
        return MALFORMED, "an https:// address of weights must end in .safetensors"
    return _called(text, rules)


def prefix_problem(text: str, rules: Rules) -> Problem | None:
    """What is wrong with a model's directory in S3, or None."""
    if _scheme(text) != "s3":
        return MALFORMED, "must be s3://bucket/prefix/ with provider `s3`"
    return _stored(text, scheme="s3", whole_bucket=False, rules=rules)


def _scheme(text: str) -> str:
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def _stored(  # noqa: PLR0911 - one return for each thing that can be wrong
    text: str, *, scheme: str, whole_bucket: bool, rules: Rules
) -> Problem | None:
    """What is wrong with `s3://bucket/key` or `file:///path`."""
    rest = text[len(scheme) + 1 :]
    if not text.startswith(scheme) or not rest.startswith("//"):
        return MALFORMED, f"must begin with {scheme}://"
    place, slash, path = rest[2:].partition("/")
    path = slash + path
    if "?" in text or "#" in text:
        return MALFORMED, "must have no query and no fragment"
    if "@" in place:
        return (
            MALFORMED,
            "must have no user name or password; storage is accessed with a role or the agent's credentials",
        )
    if scheme == "file" and place:
        return MALFORMED, "must name no host: file:/// and an absolute path"
    if scheme == "s3" and not (_BUCKET.fullmatch(place) and ".." not in place):
        return MALFORMED, "must name a bucket: s3://bucket/…, 3 to 63 of a-z 0-9 . -"
    if path in {"", "/"} and not (scheme == "s3" and whole_bucket):
        return MALFORMED, "must name a path" if scheme == "file" else "must name a key in the bucket"
    if len(path.encode()) > 1025:
        return MALFORMED, "a path or key must be at most 1,024 bytes"
    return _path_problem(path) or (_outside(plain_path(text), rules) if scheme == "file" else None)


def _path_problem(path: str) -> Problem | None:
    """What is wrong with a path, however often somebody decodes it."""
    for _ in range(4):
        if "\\" in path:
            return MALFORMED, "must have no backslash"
        if ".." in path.split("/"):
            return MALFORMED, "must not climb with `..`"
        if any(ord(character) < 0x20 for character in path):
            return MALFORMED, "must have no control character, encoded or not"
        decoded = unquote(path, errors="surrogateescape")
        if decoded == path:
            return None
        path = decoded
    return MALFORMED, "is percent-encoded more than three times over"


def _outside(path: str, rules: Rules) -> Problem | None:
    if any(within(path, root) for root in rules.local_roots):
        return None
    return NOT_ALLOWED, f"must lie below one of the allowed directories: {', '.join(rules.local_roots)[:200]}"


def local_path_problem(path: str, rules: Rules) -> Problem | None:
    """What is wrong with the absolute path of a local model, or None."""
    if not path.startswith("/") or path.startswith("//"):
        return MALFORMED, "must be an absolute path with provider `local`, e.g. /models/my-model"
    if ".." in path.split("/"):
        return MALFORMED, "must not climb with `..`"
    return _outside(path, rules)


def _called(text: str, rules: Rules) -> Problem | None:  # noqa: PLR0911 - one return for each thing that can be wrong
    """What is wrong with a URL that we are to call."""
    if not re.match(r"https?://", text, re.IGNORECASE):
        return MALFORMED, "must be an http:// or https:// address"
    if not text.isascii() or re.search(r"[\s\\]", text):
        return MALFORMED, "must have no space, no backslash and ASCII only (a host in punycode, a path percent-encoded)"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return MALFORMED, "must be a well-formed address: the host or the port is none"
    if "@" in parts.netloc:
        return MALFORMED, "must have no user name or password in it; use callbacks.auth_header"
    if parts.fragment or "#" in text:
        return MALFORMED, "must have no fragment"
    if port == 0:
        return MALFORMED, "must have a port from 1 to 65535"
    return _host_problem(host, rules)


def _host_problem(host: str, rules: Rules) -> Problem | None:
    address = literal_address(host)
    if rules.outbound.permits_name(host):
        return None
    if address is not None:
        if rules.outbound.permits_address(address):
            return None
        return NOT_ALLOWED, "must not name an address of a private, local or reserved network; a setting can allow it"
    if (
        not _HOST_NAME.fullmatch(host)
        or len(host) > 253
        or re.fullmatch(r"0x[0-9a-f]*|[0-9]+", _top_level(host), re.IGNORECASE)
    ):
        return MALFORMED, "must name a host"
    return None


def _top_level(host: str) -> str:
    return host.rstrip(".").rpartition(".")[2]


def plain_path(uri: str) -> str:
    """The path that a `file://` URI names, decoded: what to open."""
    return unquote(uri.removeprefix("file://"))


def normal(place: str) -> str:
    """One spelling for each `file://` URI, `s3://` URI or path, so that two can be compared; no trailing slash."""
    if place.startswith("file://"):
        place = plain_path(place)
    scheme, mark, rest = place.rpartition("://")
    return scheme + mark + posixpath.normpath(rest)


def place(uri: str) -> str:
    """One spelling for each place where a job publishes, ending with a slash: a place in another begins with it."""
    spelled = normal(uri).replace("://", ":", 1) + "/"
    return spelled if "//" not in spelled else re.sub("/{2,}", "/", spelled)


def within(inner: str, outer: str) -> bool:
    """Whether one place is the other or lies below it."""
    inner, outer = normal(inner), normal(outer)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


SOURCE = Kind(_SOURCE_SAYS, re.compile(_PLAIN_S3), _source)
PREFIX = Kind("file:///…/ or s3://bucket/prefix/", re.compile(_PLAIN_S3), _prefix)
WEIGHTS = Kind("s3://bucket/prefix/ or https://….safetensors", re.compile(_PLAIN_S3), _weights)
CALLED = Kind("an http:// or https:// address", re.compile(_PLAIN_URL), _called)
