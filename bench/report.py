"""What a benchmark found, as lines on the terminal and as the table of RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = ("benchmark", "what was measured", "figure", "reference (same run)", "ratio", "limit", "passed")


@dataclass(frozen=True, slots=True)
class Line:
    """One row: a figure, what it is held against, and whether it holds."""

    benchmark: str
    measured: str
    figure: str
    limit: str
    passed: bool
    reference: str = "-"
    ratio: float | None = None
    """The figure by its reference, or, where there is none, by its limit."""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        passed = "yes" if self.passed else "**no**"
        return (self.benchmark, self.measured, self.figure, self.reference, ratio, self.limit, passed)

    def text(self) -> str:
        """The row for the terminal."""
        ratio = "" if self.ratio is None else f"; ratio {self.ratio:.2f}"
        against = "" if self.reference == "-" else f"; reference {self.reference}"
        verdict = "ok  " if self.passed else "FAIL"
        return f"{verdict} {self.benchmark}: {self.measured}: {self.figure}{against}{ratio} (limit: {self.limit})"


def failure(benchmark: str, why: str) -> Line:
    """The row of a benchmark that could not be measured."""
    return Line(benchmark, "could not be measured", why.replace("\n", " ")[:300], "to run", passed=False)


def render(lines: Sequence[Line], *, facts: Sequence[tuple[str, str]]) -> str:
    """RESULTS.md."""
    table = [_HEAD, ("---",) * len(_HEAD), *(line.cells() for line in lines)]
    missed = sum(not line.passed for line in lines)
    verdict = "Every limit holds." if not missed else f"{missed} of {len(lines)} limits do not hold."
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`, never by hand. A ratio is the figure by its reference, measured in turns in the",
            "same run, or by its limit where there is no reference. Times are wall times on the machine named here.",
            "",
            *(f"* {name}: {value}" for name, value in facts),
            "",
            verdict,
            "",
            *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table),
            "",
        ]
    )
