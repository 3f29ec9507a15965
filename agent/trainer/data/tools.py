"""Tools in conversations: those that a row offers (`tools`), and the calls of its assistant (`tool_calls`).

Both go to the model's chat template in the form of OpenAI's API, with arguments as objects, which is what templates
write as JSON. A template that knows no tools leaves them out without a word: a row that it writes the same with and
without them is refused, for a call that nobody sees would teach an empty turn.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMN = "tools"


def offered(where: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """A row's tools: a list of objects, or that as JSON in a string, which tables need; nothing: there are none.

    Raises:
        DatasetInvalid: it is something else.
    """
    if isinstance(value, str) and value.strip():
        value = _parsed(value)
    if not value:
        return ()
    if not isinstance(value, list) or not all(name_of(each) for each in value):
        raise DatasetInvalid(f'{where}: tools must be a list of {{"type": "function", "function": {{"name": …}}}}')
    return tuple(value)


def called(where: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with its calls as templates want them; without any as it is.

    Raises:
        DatasetInvalid: its calls are none.
    """
    if message.get("function_call"):
        raise DatasetInvalid(f"{where}.function_call is a former form of tool_calls: write it as such")
    calls = message.get("tool_calls")
    if not calls:
        return message
    if message["role"] != "assistant":
        raise DatasetInvalid(f"{where}.tool_calls: only the assistant calls tools, and this is role {message['role']}")
    if not isinstance(calls, list):
        raise DatasetInvalid(f"{where}.tool_calls must be a list, got {type(calls).__name__}")
    return {**message, "tool_calls": [_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls)]}


def _call(where: str, call: Any) -> Mapping[str, Any]:
    if not name_of(call):
        raise DatasetInvalid(f'{where} must be {{"type": "function", "function": {{"name": …, "arguments": …}}}}')
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}")
    if not isinstance(arguments, dict):
        raise DatasetInvalid(f"{where}: its arguments must be an object, or one as JSON in a string")
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def name_of(tool: Any) -> str:
    """The name of a tool, or of the tool that a call calls; empty: it has none."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def left_out(where: str, what: str) -> DatasetInvalid:
    """The failure of a row whose tools, or calls of them, the template does not write."""
    return DatasetInvalid(
        f"{where}: the chat template leaves out {what}; set tuning_parameters.chat_template to one that knows tools, "
        "or take them out of the rows"
    )


def without_calls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same words without any call."""
    return {**message, "content": message.get("content") or "", "tool_calls": None}
