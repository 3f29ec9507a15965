"""From a row to the text that the model sees, with the spans that it is trained on.

* `text`: the whole.
* `prompt` + `completion`: joined as they are; the completion.
* `instruction` (+ `input`) + `output`: a model with a chat template gets it as one exchange of user and
  assistant, another gets the well-known prompt of the Alpaca data set; the output.
* `messages` (+ `tools`): the model's chat template; each turn of the assistant, with its calls of tools, up to and with
  its end-of-turn token.

A turn's span is what the template adds to the conversation so far when that turn is appended. Some templates
rewrite earlier turns (they drop old reasoning, for instance), so that what is rendered for a prefix is no
prefix of the whole. Such a conversation becomes one training text per assistant turn, each rendered as the
model would see it at that point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from agent.trainer.data.rows import Completion, Conversation, Instruction, Text
from agent.trainer.data.tools import left_out, without_calls
from agent.trainer.failures import ChatTemplateMissing, ConfigInvalid, DatasetInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.trainer.data.rows import Row

    Message = Mapping[str, Any]

TEMPLATE_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""A template is a program of the user's: these are what it can raise in Jinja's sandbox."""

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text and the half-open character spans of it that are trained on, in order."""

    where: str
    text: str
    spans: tuple[tuple[int, int], ...]
    templated: bool
    """Whether a chat template wrote it, with all special tokens in it."""
    ends_turn: bool
    """Whether the model should learn to stop where the text ends."""
    end_of_turn: str = ""
    """The special token that the template ends the last turn with; empty: none."""


class Renderer:
    """Renders rows for one tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source that takes the place of the tokenizer's own, or None.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None) -> None:
        self._tokenizer = tokenizer
        own = tokenizer.chat_template
        self._told = bool(chat_template)
        default, with_tools = (own.get("default"), own.get("tool_use")) if isinstance(own, dict) else (own, None)
        self._template = chat_template or default
        self._template_with_tools = chat_template or with_tools or default
        self._special_tokens = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be rendered."""
        return bool(self._template)

    def render(self, row: Row) -> list[Rendered]:
        """One or more training texts for a row.

        Raises:
            ChatTemplateMissing: the row has `messages` and there is no template.
            DatasetInvalid: the template refuses the conversation.
            ConfigInvalid: the template is none.
        """
        match row.content:
            case Text(text):
                return [Rendered(row.where, text, ((0, len(text)),), templated=False, ends_turn=True)]
            case Completion(prompt, completion):
                return [_completed(row.where, prompt, completion)]
            case Instruction(instruction, given, output) if self._template:
                question = f"{instruction}\n\n{given}" if given else instruction
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
                return self._conversation(row.where, messages, ())
            case Instruction(instruction, given, output):
                prompt = (ALPACA_WITH_INPUT if given else ALPACA).format(instruction=instruction, input=given)
                return [_completed(row.where, prompt, output)]
            case Conversation(messages, tools):
                return self._conversation(row.where, messages, tools)

    def _conversation(self, where: str, messages: Sequence[Message], tools: Sequence[Message]) -> list[Rendered]:
        turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        conversation = messages[: turns[-1] + 1]
        whole = self._apply(where, conversation, tools)
        spans = [self._span(where, messages, turn, tools) for turn in turns]
        if tools and self._writes(where, conversation, ()) == whole:
            raise left_out(where, "tools")
        for turn, (text, _) in zip(turns, spans, strict=True):
            if messages[turn].get("tool_calls"):
                self._require_calls(where, messages[: turn + 1], tools, text)
        if all(whole.startswith(text) for text, _ in spans):
            return [self._rendered(where, whole, tuple(span for _, span in spans))]
        return [self._rendered(where, text, (span,)) for text, span in spans]

    def _require_calls(self, where: str, messages: Sequence[Message], tools: Sequence[Message], text: str) -> None:
        """See that the last message's calls are in the text."""
        *before, last = messages
        if self._writes(where, [*before, without_calls(last)], tools) == text:
            raise left_out(where, f"messages[{len(before)}].tool_calls")

    def _writes(self, where: str, messages: Sequence[Message], tools: Sequence[Message]) -> str:
        """What the template makes of something that is no row; empty: it refuses it."""
        try:
            return self._apply(where, messages, tools)
        except DatasetInvalid:
            return ""

    def _span(
        self, where: str, messages: Sequence[Message], turn: int, tools: Sequence[Message]
    ) -> tuple[str, tuple[int, int]]:
        """The conversation up to and with that turn, and where in it the turn's own text lies."""
        after = self._apply(where, messages[: turn + 1], tools)
        if turn == 0 and (tools or messages[0].get("tool_calls")):
            raise DatasetInvalid(f"{where}: a conversation with tools must not begin with the assistant")
        if turn == 0:
            # Nothing stands before it, and templates refuse an empty conversation: the turn begins with its words.
            start = max(0, after.find(messages[0]["content"].strip()))
            return after, (start, self._end_of_turn(after, start))
        before = self._apply(where, messages[:turn], tools, generation_prompt=True)
        if not after.startswith(before):
            # The prompt opens what this turn does not have (a block of reasoning): the turn begins where they part.
            before = before[: _parting(before, after)]
        return after, (len(before), self._end_of_turn(after, len(before)))

    def _end_of_turn(self, text: str, start: int) -> int:
        """Leave out white space that the template writes after the end-of-turn token."""
        trimmed = text.rstrip()
        closed = any(trimmed.endswith(token) for token in self._special_tokens)
        return max(start, len(trimmed)) if closed else len(text)

    def _rendered(self, where: str, text: str, spans: tuple[tuple[int, int], ...]) -> Rendered:
        end = spans[-1][1]
        closing = next((token for token in self._special_tokens if text.endswith(token, 0, end)), "")
        text = text if closing else text[:end]
        return Rendered(where, text, spans, templated=True, ends_turn=not closing, end_of_turn=closing)

    def _apply(
        self, where: str, messages: Sequence[Message], tools: Sequence[Message], *, generation_prompt: bool = False
    ) -> str:
        if not self._template:
            raise ChatTemplateMissing(
                f"{where} has messages, and the model has no chat template; set tuning_parameters.chat_template, "
                "or use rows with prompt and completion"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self._template_with_tools if tools else self._template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except TemplateSyntaxError as error:
            # Whatever the row says, it is no template.
            remedy = "mend it" if self._told else "set tuning_parameters.chat_template"
            field = "tuning_parameters.chat_template" if self._told else "base_model.model_name: its chat template"
            raise ConfigInvalid(f"{field}: line {error.lineno} is not Jinja: {error.message}; {remedy}") from error
        except TEMPLATE_ERRORS as error:
            raise DatasetInvalid(f"{where}: the chat template refuses it: {error}") from error
        return str(text)


def _parting(left: str, right: str) -> int:
    """How many characters two texts begin with in common."""
    shortest = min(len(left), len(right))
    return next((index for index in range(shortest) if left[index] != right[index]), shortest)


def _completed(where: str, prompt: str, completion: str) -> Rendered:
    text = prompt + completion
    return Rendered(where, text, ((len(prompt), len(text)),), templated=False, ends_turn=True)
