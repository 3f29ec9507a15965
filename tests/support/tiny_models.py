"""Makes tiny but real base models on the spot: three architectures, a trained byte-level tokenizer, a chat template."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "A trainer trains, an agent watches, and the control plane remembers what it promised.",
    "Every event of a job has a number, and no number is ever missing.",
    "What is the capital of France? Paris. What is two and two? Four. Who are you? A small model.",
    "user assistant system instruction response question answer prompt completion",
)


#: What a test can ask for; all but Llama have three blocks.
ARCHITECTURES = ("llama", "gpt2", "qwen2")
#: A mixture of four experts, for the tests of those.
MIXTURE = "qwen3_moe"
#: A Gemma 3, of whose layers two in three see no further back than eight tokens.
WINDOWED = "gemma3_text"


def write_tiny_model(
    directory: Path,
    *,
    chat_template: str | None = CHATML,
    positions: int = 256,
    architecture: str = "",
    tied: bool = False,
) -> Path:
    """Write a model (about 60,000 parameters) with its tokenizer; the same bytes every time.

    Args:
        directory: where to.
        chat_template: None leaves it out.
        positions: the longest sequence.
        architecture: one of ARCHITECTURES, MIXTURE or WINDOWED, with 3 blocks; empty: a Llama of 2.
        tied: the head is the embeddings; GPT-2's always is.

    Returns:
        The directory: config, safetensors, tokenizer, chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(chat_template)
    torch.manual_seed(0)
    config = _config(architecture or "llama", blocks=3 if architecture else 2, positions=positions)
    if tied:
        config.tie_word_embeddings = True
    config.vocab_size = len(tokenizer)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _config(architecture: str, *, blocks: int, positions: int) -> Any:
    from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig, Qwen2Config, Qwen3MoeConfig

    if architecture == "gpt2":
        return GPT2Config(n_embd=48, n_inner=96, n_layer=blocks, n_head=4, n_positions=positions, initializer_range=0.1)
    if architecture == WINDOWED:
        layers = ["sliding_attention", "full_attention", "sliding_attention"]
        kind: Any = partial(Gemma3TextConfig, sliding_window=8, layer_types=layers[:blocks], head_dim=12)
    else:
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config, MIXTURE: Qwen3MoeConfig}[architecture]
    experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 12}
    return kind(
        **(experts if architecture == MIXTURE else {}),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.1,  # wide enough that a small learning rate shows
    )


def write_tokenizer(directory: Path) -> None:
    """The tiny models' tokenizer alone, for another model."""
    _tokenizer(CHATML).save_pretrained(directory)


def write_sentencepiece_model(directory: Path, *, legacy: bool = False, architecture: str = "llama") -> Path:
    """Write a tiny Llama or Mistral whose tokenizer is of SentencePiece's kind: BPE, spaces as `▁`, bytes at last.

    Args:
        directory: where to.
        legacy: as Llama 2's: a space goes before every piece of text, not before the first alone.
        architecture: llama or mistral.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

    tokenizer = sentencepiece_tokenizer(legacy=legacy)
    kind: Any = {"llama": LlamaConfig, "mistral": MistralConfig}[architecture]
    torch.manual_seed(0)
    config = kind(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        vocab_size=len(tokenizer) + 5,  # as models have that were made a round number large
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **({"sliding_window": None} if architecture == "mistral" else {}),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def sentencepiece_tokenizer(*, legacy: bool = False, closed: bool = True) -> Any:
    """The tokenizer of `write_sentencepiece_model`; not `closed`: with the merges alone that training made."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import AddedToken, LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    marks = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    always = [*marks, *(f"<0x{number:02X}>" for number in range(256))]
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=520, special_tokens=always, show_progress=False))
    vocabulary = trained.get_vocab()
    merges = [tuple(each) for each in json.loads(trained.to_str())["model"]["merges"]]
    if closed:
        # As SentencePiece: whatever makes a token is merged, what was learnt first goes first.
        scores = {token: -float(number) for token, number in vocabulary.items()}
        merges = generate_merges(vocabulary, scores, skip_tokens=always)
    made = LlamaTokenizer(
        vocab=vocabulary, merges=merges, add_bos_token=legacy, chat_template=CHATML.replace("<|im_end|>", "</s>")
    )
    made.add_tokens([AddedToken("<tool>", special=True), AddedToken("<think>", special=False, normalized=False)])
    if legacy:
        made.backend_tokenizer.pre_tokenizer = None
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    return made


def _tokenizer(chat_template: str | None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
