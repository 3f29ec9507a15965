"""What of a URL may be published, in both engines that publish where an output came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trainplane_bare import redaction as bare

from agent.trainer import redaction as peft

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize("engine", [peft, bare], ids=["peft", "bare"])
@pytest.mark.parametrize(
    ("url", "published"),
    [
        ("https://host/a/b.jsonl?X-Amz-Signature=5e&x=https://y", "https://host/a/b.jsonl?redacted"),
        ("HTTPS://user:pa@ss@host:8443/a?b", "HTTPS://redacted@host:8443/a?redacted"),
        ("https://token@host", "https://redacted@host"),
        ("https://host?sig=1", "https://host?redacted"),
        ("http://host/a#token", "http://host/a?redacted"),
        ("https://[::1/a?\nsig", "https://[::1/a?redacted"),
        ("https://host/a@b.jsonl", "https://host/a@b.jsonl"),
        ("s3://bucket/what?.jsonl", "s3://bucket/what?.jsonl"),
        ("hf:owner/rows@v1", "hf:owner/rows@v1"),
        ("file:///data/a?b.jsonl", "file:///data/a?b.jsonl"),
        ("see https://host/a?b", "see https://host/a?b"),
    ],
)
def test_a_url_keeps_host_and_path_and_no_key(engine: ModuleType, url: str, published: str) -> None:
    assert engine.redacted(url) == published
    assert engine.without_keys({"a": [{"b": url}, 1, None]}) == {"a": [{"b": published}, 1, None]}
