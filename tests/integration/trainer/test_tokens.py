"""What a row becomes: its text, its tokens, and exactly which of them are trained on."""

from __future__ import annotations

from typing import Any

import pytest

from agent.trainer.data.rows import Completion, Content, Conversation, Instruction, Row, Text
from agent.trainer.data.template import Renderer
from agent.trainer.data.tokens import Example, TokenCounts, tokenize
from agent.trainer.failures import ChatTemplateMissing, DatasetInvalid
from tests.support.tiny_models import CHATML


def examples(content: Content, tokenizer: Any, *, template: str | None = None, max_length: int = 200) -> list[Example]:
    renderer = Renderer(tokenizer, template)
    return list(
        tokenize(renderer.render(Row("row 1", content)), tokenizer, max_length=max_length, counts=TokenCounts())
    )


def shown(example: Example, tokenizer: Any) -> str:
    """The text with what is trained on in brackets."""
    parts, inside = [], False
    for token, trained in zip(example.ids, example.trained, strict=True):
        if bool(trained) != inside:
            parts.append("[" if trained else "]")
            inside = bool(trained)
        parts.append(tokenizer.decode([token]))
    return "".join(parts) + ("]" if inside else "")


def only(content: Content, tokenizer: Any, **options: Any) -> str:
    (example,) = examples(content, tokenizer, **options)
    return shown(example, tokenizer)


TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Me."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
]


def test_a_text_is_trained_on_whole_and_ends(tokenizer: Any):
    # The first token has nothing before it that could predict it.
    (example,) = examples(Text("xyz"), tokenizer)
    assert tokenizer.decode(example.ids) == "xyz<|endoftext|>"
    assert example.trained.tolist() == [False] + [True] * (len(example) - 1)


def test_only_the_completion_is_trained_on_and_the_end_after_it(tokenizer: Any):
    assert only(Completion("What is two?", " Four."), tokenizer) == "What is two?[ Four.<|endoftext|>]"


def test_a_token_across_the_border_belongs_to_the_completion(tokenizer: Any):
    # One token holds the prompt's last space and the completion's first letters; without it the answer could not begin.
    assert only(Completion("What is two? ", "Four."), tokenizer) == "What is two?[ Four.<|endoftext|>]"


def test_an_end_that_is_in_the_text_is_not_doubled(tokenizer: Any):
    assert only(Completion("Who? ", "Me.<|endoftext|>"), tokenizer) == "Who? [Me.<|endoftext|>]"


def test_an_empty_completion_teaches_nothing(tokenizer: Any):
    assert examples(Completion("Who? ", ""), tokenizer) == []


def test_characters_of_many_bytes_are_masked_whole(tokenizer: Any):
    (example,) = examples(Completion("é", "日本"), tokenizer)
    assert tokenizer.decode(example.ids[example.trained]) == "日本<|endoftext|>"


def test_every_turn_of_the_assistant_is_trained_on_with_its_end(tokenizer: Any):
    assert only(Conversation(TURNS), tokenizer) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n[Me.<|im_end|>]\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n[Because.<|im_end|>]\n"
    )


def test_what_follows_the_last_turn_of_the_assistant_is_left_out(tokenizer: Any):
    assert only(Conversation([*TURNS, {"role": "user", "content": "And?"}]), tokenizer) == only(
        Conversation(TURNS), tokenizer
    )


def test_a_conversation_may_begin_with_the_assistant(tokenizer: Any):
    turns = [
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Me."},
    ]
    text = only(Conversation(turns), tokenizer)
    assert text.startswith("<|im_start|>assistant\n[Hello.<|im_end|>]\n")
    assert text.endswith("assistant\n[Me.<|im_end|>]\n")


def test_the_same_words_in_both_turns_are_told_apart(tokenizer: Any):
    turns = [{"role": "user", "content": "Me."}, {"role": "assistant", "content": "Me."}]
    assert (
        only(Conversation(turns), tokenizer)
        == "<|im_start|>user\nMe.<|im_end|>\n<|im_start|>assistant\n[Me.<|im_end|>]\n"
    )


def test_a_template_without_an_end_of_turn_gets_the_tokenizer_s(tokenizer: Any):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    assert only(Conversation(TURNS[1:3]), tokenizer, template=template) == "user: Who?\nassistant: [Me.\n<|endoftext|>]"


@pytest.mark.parametrize(
    ("content", "max_length", "endless"),
    [
        (Text("Who? Me."), 200, 0),
        (Conversation(TURNS), 200, 0),
        (Text("Who? <|im_start|> and <|im_start|> again"), 200, 0),
        (Text("a<|im_start|>b"), 2, 1),
        (Text("a<|im_end|>b"), 2, 1),
    ],
    ids=["text", "turn", "token within", "cut off at a token", "cut off at what ends turns elsewhere"],
)
def test_only_what_ends_a_text_or_a_turn_counts_as_an_end(
    tokenizer: Any, content: Content, max_length: int, endless: int
):
    counts = TokenCounts()
    rendered = Renderer(tokenizer, None).render(Row("row 1", content))
    (example,) = tokenize(rendered, tokenizer, max_length=max_length, counts=counts)
    assert counts.endless == endless, shown(example, tokenizer)


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_forgets_earlier_reasoning_gives_one_text_a_turn(tokenizer: Any):
    turns = [
        {**turn, "content": "<think>x</think>" + turn["content"]} if turn["role"] == "assistant" else turn
        for turn in TURNS[1:]
    ]
    first, second = (
        shown(example, tokenizer) for example in examples(Conversation(turns), tokenizer, template=FORGETFUL)
    )
    assert first == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n[<think>x</think>Me.<|im_end|>]\n"
    assert second == (
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n[<think>x</think>Because.<|im_end|>]\n"
    )


def test_a_generation_prompt_that_opens_more_than_the_turn_has_is_met_where_they_part(tokenizer: Any):
    template = CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
    assert only(Conversation(TURNS[1:3]), tokenizer, template=template).endswith(
        "<|im_start|>assistant\n[Me.<|im_end|>]\n"
    )


def test_an_instruction_is_a_conversation_for_a_chat_model(tokenizer: Any):
    assert (
        only(Instruction("Say", "it", "Me."), tokenizer)
        == "<|im_start|>user\nSay\n\nit<|im_end|>\n<|im_start|>assistant\n[Me.<|im_end|>]\n"
    )
    assert "Say<|im_end|>" in only(Instruction("Say", "", "Me."), tokenizer)


def test_an_instruction_is_alpaca_s_prompt_for_any_other_model(bare_tokenizer: Any):
    text = only(Instruction("Say", "", "Me."), bare_tokenizer)
    assert text.endswith("### Instruction:\nSay\n\n### Response:\n[Me.<|endoftext|>]")
    assert "### Input:\nit\n\n### Response:\n[Me." in only(Instruction("Say", "it", "Me."), bare_tokenizer)


def test_messages_without_a_template_are_refused(bare_tokenizer: Any):
    with pytest.raises(ChatTemplateMissing, match=r"tuning_parameters\.chat_template"):
        examples(Conversation(TURNS), bare_tokenizer)
    assert examples(Conversation(TURNS), bare_tokenizer, template=CHATML)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('roles must alternate') }}", "{{ messages.nothing.at_all }}", "{{ 1 / 0 }}"],
)
def test_a_template_that_refuses_a_conversation_names_the_row(tokenizer: Any, template: str):
    with pytest.raises(DatasetInvalid, match=r"^row 1: the chat template"):
        examples(Conversation(TURNS), tokenizer, template=template)


def test_a_cut_loses_the_end_and_is_counted(tokenizer: Any):
    counts = TokenCounts()
    texts = Renderer(tokenizer, None).render(Row("row 1", Text("word " * 50)))
    (example,) = tokenize(texts, tokenizer, max_length=10, counts=counts)
    assert len(example) == 10
    assert (counts.truncated, counts.tokens, counts.first_truncated) == (1, 10, "row 1")
    assert counts.truncated_tokens > 0


def cut(tokenizer: Any, content: Content, truncation: str, *, max_length: int = 6) -> tuple[list[str], TokenCounts]:
    """The examples of it and of a short text, shown, and what was counted."""
    counts = TokenCounts()
    renderer = Renderer(tokenizer, None)
    texts = [
        text for place, each in enumerate((content, Text("xyz"))) for text in renderer.render(Row(f"{place}", each))
    ]
    made = tokenize(texts, tokenizer, max_length=max_length, counts=counts, truncation=truncation)
    return [shown(example, tokenizer) for example in made], counts


def test_a_cut_from_the_left_keeps_the_completion_and_its_end(tokenizer: Any):
    long = Completion("A trainer trains, an agent watches. ", "Paris.")
    (made, short), counts = cut(tokenizer, long, "left")
    assert made.endswith("[ Paris.<|endoftext|>]")
    assert short == "x[yz<|endoftext|>]"
    assert (counts.truncated, counts.first_truncated, counts.dropped, counts.untrainable) == (1, "0", 0, 0)
    assert len(tokenizer(long.prompt + long.completion).input_ids) + 1 - 6 == counts.truncated_tokens
    right, _ = cut(tokenizer, long, "right")
    assert right == [short], "of the end nothing is left that is trained on"


def test_a_cut_from_the_left_leaves_the_token_that_texts_begin_with(tokenizer: Any):
    import copy

    from tokenizers.processors import TemplateProcessing

    with_start = copy.deepcopy(tokenizer)
    with_start.bos_token = "<|im_start|>"
    with_start.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))]
    )
    (made, _), counts = cut(with_start, Text("q" * 20), "left")
    assert made == "<|im_start|>[qqqq<|endoftext|>]"
    assert counts.truncated_tokens == 22 - 6


@pytest.mark.parametrize("truncation", ["drop", "error"])
def test_what_is_too_long_is_left_out_and_counted(tokenizer: Any, truncation: str):
    made, counts = cut(tokenizer, Text("q" * 20), truncation)
    assert made == ["x[yz<|endoftext|>]"]
    assert (counts.texts, counts.examples, counts.dropped, counts.first_dropped) == (2, 1, 1, "0")
    assert (counts.truncated, counts.truncated_tokens) == (0, 0)


def test_a_beginning_of_text_token_is_kept_and_not_trained_on(tokenizer: Any):
    import copy

    from tokenizers.processors import TemplateProcessing

    with_start = copy.deepcopy(tokenizer)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    with_start.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert only(Completion("Who? ", "Me."), with_start) == "<|im_start|>Who? [Me.<|endoftext|>]"
