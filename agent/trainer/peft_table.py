"""`python -m agent.trainer.peft_table`: prints `trainplane/backends/peft_fields.py` from the PEFT that is installed.

A spec is judged at submit by a process that has no torch, so PEFT's fields, which only PEFT knows, are committed as a
table. `make gen` writes it anew, and a test holds it fresh.
"""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from enum import Enum

from peft import (
    AdaLoraConfig,
    BOFTConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)

from agent.trainer.isolation import isolate

HEAD = '''"""PEFT's configuration fields, by configuration class. Written by `make gen`; never edited.

Field -> what a value may be, and the default as PEFT writes it. `'word'` is that word alone; `object` is a class of
PEFT's own, which no JSON value is.
"""

from __future__ import annotations

Fields = dict[str, tuple[str, str]]
'''
CLASSES = {
    "LORA": LoraConfig,
    "ADALORA": AdaLoraConfig,
    "IA3": IA3Config,
    "VERA": VeraConfig,
    "OFT": OFTConfig,
    "BOFT": BOFTConfig,
    "PROMPT_TUNING": PromptTuningConfig,
    "PREFIX_TUNING": PrefixTuningConfig,
    "P_TUNING": PromptEncoderConfig,
    "LN_TUNING": LNTuningConfig,
}
"""PEFT's word for a method (`peft_type`) -> the class that configures it."""
JSON_TYPES = {bool: "bool", int: "int", float: "float", str: "str"}


def main() -> None:
    """Print the module."""
    isolate(())
    sys.stdout.write(render())


def render() -> str:
    """The module's text."""
    return "\n".join([HEAD, *(line for name, kind in CLASSES.items() for line in _table(name, kind))])


def _table(name: str, kind: type[PeftConfig]) -> list[str]:
    lines = [f"{name}: Fields = {{"]
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        # In an order of our own: which of two equal unions `typing` gives depends on who made one first.
        kinds = " | ".join(sorted(set(_kinds(hints[field.name])), key=_rank))
        lines.append(f'    "{field.name}": ("{kinds}", "{_default(field)}"),')
    return [*lines, "}", ""]


def _rank(kind: str) -> tuple[int, str]:
    """Simple types first, then words, lists, dictionaries and what is neither."""
    simple = list(JSON_TYPES.values())
    return (simple.index(kind), "") if kind in simple else (len(simple) + (kind == "object"), kind)


def _kinds(hint: object) -> list[str]:
    """What a value may be; None, which is "not set" everywhere, is left out."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return [kind for argument in arguments if argument is not type(None) for kind in _kinds(argument)]
    if origin is typing.Literal:
        return [f"'{word}'" for word in arguments]
    if origin is list:
        return [f"list[{kind}]" for kind in _kinds(arguments[0])]
    if hint is dict or origin is dict:
        return ["dict"]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ["str"]
    return [JSON_TYPES.get(hint, "object")] if isinstance(hint, type) else ["object"]


def _default(field: dataclasses.Field[object]) -> str:
    if isinstance(field.default, Enum):
        return repr(field.default.value)
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory()).replace('"', "'")
    return ""


if __name__ == "__main__":
    main()
