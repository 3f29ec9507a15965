"""Conversations with tools: the model's template gets them, and the calls are what is trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent.trainer.assignment import DatasetSource
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.rows import Conversation, fingerprint
from agent.trainer.failures import DatasetInvalid
from tests.integration.trainer.attempts import failed_with
from tests.integration.trainer.test_formats import parquet_bytes
from tests.integration.trainer.test_tokens import TURNS, examples, shown
from tests.support.tiny_models import CHATML

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.trainer.attempts import Attempt

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TALK = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2", "tool_call_id": "1"},
    {"role": "assistant", "content": "Two."},
]
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function.name }};{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}={{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def read(file: Path, row: dict[str, Any]) -> Any:
    file.write_bytes(parquet_bytes([row]) if file.suffix == ".parquet" else json.dumps(row).encode())
    (found,) = read_dataset(DatasetSource(index=3, source=file.as_uri())).rows
    return found.content


@pytest.mark.parametrize(
    ("name", "tools", "said"),
    [
        ("a.jsonl", [ADD], [ADD]),
        ("a.jsonl", json.dumps([ADD]), [ADD]),
        ("a.parquet", json.dumps([ADD]), [ADD]),
        ("a.jsonl", None, []),
        ("a.jsonl", [], []),
    ],
)
def test_the_template_gets_tools_and_calls_and_the_calls_are_trained_on(
    tmp_path: Path, tokenizer: Any, name: str, tools: Any, said: list[Any]
):
    content = read(tmp_path / name, {"messages": TALK, "tools": tools})
    assert content.tools == tuple(said)
    (example,) = examples(content, tokenizer, template=TEMPLATE)
    assert shown(example, tokenizer) == (
        ("<|im_start|>system\nadd;<|im_end|>\n" if said else "") + "<|im_start|>user\n1+1?<|im_end|>\n"
        '<|im_start|>assistant\n[add={"a": 1}<|im_end|>]\n'
        "<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n[Two.<|im_end|>]\n"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": TALK, "tools": "add"}, "tools must be a list of"),
        ({"messages": TALK, "tools": [{"type": "function"}]}, "tools must be a list of"),
        ({"messages": [{**TALK[0], "tool_calls": [CALL]}, TALK[3]]}, r"messages\[0\]\.tool_calls: only the assistant"),
        ({"messages": [TALK[0], {**TALK[1], "tool_calls": [{"id": "1"}]}]}, r"messages\[1\]\.tool_calls\[0\] must be"),
        ({"messages": [TALK[0], {**TALK[1], "tool_calls": "add"}]}, r"messages\[1\]\.tool_calls must be a list, got str"),
        ({"messages": [TALK[0], {**TALK[1], "tool_calls": [{"function": {"name": "add", "arguments": "{1"}}]}]}, "its arguments must be an object"),
        ({"messages": [TALK[0], {**TALK[3], "function_call": {"name": "add"}}]}, r"messages\[1\]\.function_call is a former form"),
        ({"messages": [TALK[0], {"role": "assistant", "content": None}]}, r"messages\[1\]\.content must be a string, got NoneType"),
    ],
)  # fmt: skip
def test_what_are_no_tools_is_told(tmp_path: Path, row: dict[str, Any], words: str):
    with pytest.raises(DatasetInvalid, match=rf"row 1 of .*: {words}"):
        read(tmp_path / "a.jsonl", row)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"messages": TALK[:1] + TALK[3:], "tools": [ADD]},
            "the chat template leaves out tools; set tuning_parameters.chat",
        ),
        ({"messages": [TALK[0], {**TALK[1], "content": "I add."}]}, "leaves out messages[1].tool_calls; set tuning_pa"),
        ({"messages": TALK}, "leaves out messages[1].tool_calls; set tuning_parameters.chat_template"),
        ({"messages": TALK[1:]}, "a conversation with tools must not begin with the assistant"),
    ],
)
def test_a_template_that_leaves_tools_out_is_no_way_to_train_them(attempt: Attempt, row: dict[str, Any], words: str):
    attempt.assign(rows=[row], tuning_parameters={"chat_template": CHATML})
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert words in message


def test_rows_with_other_tools_say_something_else_and_those_without_what_they_ever_said():
    plain = Conversation(TURNS)
    assert fingerprint(plain) != fingerprint(Conversation(TURNS, (ADD,)))
    assert fingerprint(plain).hex() == "e2e3ecf520a13510a5dd5cfeb3f805a8"
