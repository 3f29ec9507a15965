"""What former versions left in the database, and this one would not write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from controlplane.engine.ports import Store

_OWE = text("UPDATE jobs SET endpoint_owed = true WHERE uid = :uid")


async def owe_endpoints(store: Store, uids: Iterable[str]) -> None:
    """These jobs were stored without their endpoints, which were to be written afterwards."""
    await store.write(lambda tx: [tx._run(_OWE, {"uid": uid}) for uid in uids])
