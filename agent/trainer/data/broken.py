"""The rows of datasets that are broken: all are counted, the first are listed for the audit, a message names a few."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.trainer.failures import DatasetInvalid

LISTED = 1000
"""Broken rows that the audit lists."""
NAMED = 8
"""Those after the first that a message gives the numbers of."""


class RowsBroken(DatasetInvalid):
    """Rows are broken; `rows` knows which."""

    def __init__(self, message: str, rows: BrokenRows) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass(slots=True)
class BrokenRows:
    """What was found until now."""

    count: int = 0
    listed: list[tuple[str, str]] = field(default_factory=list)
    """Where the first of them stand, and what is wrong with each."""

    def add(self, where: str, error: DatasetInvalid) -> None:
        """Note a row; `where` is how its error's message begins."""
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append((where, str(error).removeprefix(where)))

    def add_all(self, others: BrokenRows) -> None:
        """Note those of another dataset."""
        self.count += others.count
        self.listed += others.listed[: LISTED - len(self.listed)]

    def failure(self) -> RowsBroken:
        """What the job fails with: the first of them, and the numbers of some that are in the same file."""
        where, words = self.listed[0]
        others = self.count - 1
        if not others:
            return RowsBroken(f"{where}{words}", self)
        _, _, file = where.partition(" of ")
        numbers = [
            place.rpartition(" ")[2]
            for place, _, same in (each.partition(" of ") for each, _ in self.listed[1:])
            if same == file
        ]
        named = ", ".join(numbers[:NAMED] + ["…"] * (others > min(NAMED, len(numbers))))
        more = "1 more broken row" if others == 1 else f"{others} more broken rows"
        return RowsBroken(f"{where}{words} ({more}: {named})", self)
