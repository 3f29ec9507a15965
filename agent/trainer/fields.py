"""Typed reading of one block of the spec, with messages that name the field as the user wrote it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.trainer.failures import ConfigInvalid, NotYetSupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class _Required:
    """Marks a field that has no default."""


REQUIRED = _Required()


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and its path in the spec. Absent and `null` are the same: not set.

    Every reader raises `ConfigInvalid` for a value of the wrong type or outside its bounds.
    """

    values: Mapping[str, Any]
    path: str

    def at(self, name: str) -> str:
        """The field's path in the user's words: `tuning_parameters.seed`. The `spec` block itself is not named."""
        path = self.path.removeprefix("spec").removeprefix(".")
        return f"{path}.{name}" if path else name

    def block(self, name: str) -> Fields:
        """A nested object; empty if not set."""
        return Fields(self._of_type(name, dict, "an object", {}), self.at(name))

    def blocks(self, name: str) -> list[Fields]:
        """A list of objects; empty if not set."""
        found = [
            (item, f"{self.at(name)}[{index}]") for index, item in enumerate(self._of_type(name, list, "a list", []))
        ]
        for item, path in found:
            if not isinstance(item, dict):
                raise ConfigInvalid(f"{path}: must be an object")
        return [Fields(item, path) for item, path in found]

    def items(self, name: str) -> list[Any]:
        """A list; empty if not set."""
        return list(self._of_type(name, list, "a list", []))

    def texts(self, name: str) -> list[str]:
        """A list of strings; one string stands for a list of one; empty if not set."""
        value = self.values.get(name)
        found = [value] if isinstance(value, str) else self.items(name)
        if not all(isinstance(item, str) for item in found):
            raise ConfigInvalid(f"{self.at(name)}: must be a list of strings")
        return found

    def text(self, name: str, default: str | _Required = REQUIRED) -> str:
        """A string that is not empty, unless the default is."""
        value: str = self._of_type(name, str, "a string", default)
        if not value and value != default:
            raise ConfigInvalid(f"{self.at(name)}: must not be empty")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string or None; the empty string is None."""
        value: str = self._of_type(name, str, "a string", "")
        return value or None

    def boolean(self, name: str, *, default: bool) -> bool:
        """True or false."""
        return bool(self._of_type(name, bool, "true or false", default))

    def integer(self, name: str, default: int | _Required = REQUIRED, *, minimum: int | None = None) -> int:
        """A whole number; `3.0` is one."""
        value = self.number(name, default, minimum=minimum)
        if value != int(value):
            raise ConfigInvalid(f"{self.at(name)}: must be a whole number, got {value}")
        return int(value)

    def optional_integer(self, name: str, *, minimum: int) -> int | None:
        """A whole number; absent, null and 0 are None: proto's zero says "not set" in an effective spec."""
        return self.integer(name, minimum=minimum) if self.values.get(name) else None

    def optional_number(self, name: str) -> float | None:
        """A number or None."""
        return self.number(name) if self.values.get(name) is not None else None

    def number(
        self,
        name: str,
        default: float | _Required = REQUIRED,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        above: float | None = None,
        below: float | None = None,
    ) -> float:
        """A finite number within the bounds given."""
        value = self._of_type(name, (int, float), "a number", default)
        if isinstance(value, bool):
            raise ConfigInvalid(f"{self.at(name)}: must be a number, got {value}")
        inside = (
            value - value == 0  # neither NaN nor infinite
            and (minimum is None or value >= minimum)
            and (maximum is None or value <= maximum)
            and (above is None or value > above)
            and (below is None or value < below)
        )
        if not inside:
            raise ConfigInvalid(f"{self.at(name)}: {value} is out of range")
        return value  # type: ignore[no-any-return]

    def choice(self, name: str, default: str, *, allowed: Sequence[str], known: Sequence[str] | None) -> str:
        """One of `allowed`; of `known` (None: any other), NOT_YET_SUPPORTED instead of CONFIG_INVALID."""
        value = self.text(name, default)
        if value in allowed:
            return value
        message = f"{self.at(name)}: {value} is not supported yet; this version has {', '.join(allowed)}"
        if known is None or value in known:
            raise NotYetSupported(message)
        raise ConfigInvalid(f"{self.at(name)}: there is no {value}; this version has {', '.join(allowed)}")

    def refuse(self, name: str) -> None:
        """A field that must not be set yet: absent, null, false, 0, empty are all "not set".

        Raises:
            NotYetSupported: it is.
        """
        if self.values.get(name):
            raise NotYetSupported(f"{self.at(name)} is not supported yet; leave it out")

    def _of_type(self, name: str, types: type | tuple[type, ...], words: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if isinstance(default, _Required):
                raise ConfigInvalid(f"{self.at(name)}: must be set")
            return default
        if not isinstance(value, types):
            raise ConfigInvalid(f"{self.at(name)}: must be {words}, got {type(value).__name__}")
        return value
