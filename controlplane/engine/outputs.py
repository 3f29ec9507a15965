"""Where live jobs publish: no two of a project in one place, nor one inside the other's.

Live places never nest, which this holds true by itself. So in the order of their spelling, whoever is in the way of a
new place is its neighbour: two seeks in an index for each submit. Only where something is in the way is more asked.

    batch ──► neighbours of its places, its places among themselves ──► nothing: done
                                                                    └─► one by one: repeats pass, others are refused
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from controlplane.domain.errors import OutputInUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controlplane.domain.job import NewJob
    from controlplane.engine.ports import Transaction


def taken(tx: Transaction, batch: Sequence[NewJob]) -> dict[str, OutputInUse]:
    """Which of these jobs may not be stored, by uid: the first in the batch has the place, if no live job has it.

    A job whose name is there already is never among them: it is a repeat, or refused for its name.
    """
    refused: dict[str, OutputInUse] = {}
    for project in {new.job.project for new in batch}:
        asking = [new for new in batch if new.job.project == project and new.output_place]
        places = sorted(new.output_place for new in asking)
        held = {
            place: found
            for place, neighbours in tx.outputs_beside(project, sorted(set(places))).items()
            if (found := _in_the_way(place, neighbours))
        }
        if held or any(later.startswith(sooner) for sooner, later in pairwise(places)):
            refused |= _one_by_one(tx, asking, held)
    return refused


def held(tx: Transaction, project: str, place: str) -> OutputInUse | None:
    """Why a new job could not publish there now; None: it could."""
    found = _in_the_way(place, tx.outputs_beside(project, [place])[place]) if place else ""
    holder = tx.output_holder(project, found) if found else None
    return OutputInUse(holder.job_id, state=holder.state) if holder else None


def _in_the_way(place: str, others: Iterable[str]) -> str:
    """The first of these places that is, holds or lies in `place`; all end with a slash."""
    return next((other for other in others if place.startswith(other) or other.startswith(place)), "")


def _one_by_one(tx: Transaction, asking: Sequence[NewJob], held: dict[str, str]) -> dict[str, OutputInUse]:
    refused: dict[str, OutputInUse] = {}
    claimed: dict[str, NewJob] = {}
    names: set[str] = set()
    for new in asking:
        project, job_id = new.job.project, new.job.job_id
        if job_id in names or tx.find_job(project, job_id) is not None:
            continue
        if new.output_place in held:
            holder = tx.output_holder(project, held[new.output_place])
        else:
            rival = _in_the_way(new.output_place, claimed)
            holder = claimed[rival].job if rival else None
        if holder is None:
            claimed[new.output_place] = new
            names.add(job_id)
        else:
            refused[new.job.uid] = OutputInUse(holder.job_id, state=holder.state)
    return refused
