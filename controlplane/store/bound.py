"""What every part of a transaction shares: the open connection, the locks, and INSERTs that meet what is there already.

Statements are built once, at import: SQLAlchemy then finds them compiled in its cache at each use.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import ClauseElement, Connection, CursorResult, Executable, Insert, Row, Select, Table
    from sqlalchemy.sql.compiler import SQLCompiler

    AnyRow: TypeAlias = Row[*tuple[Any, ...]]
    AnySelect: TypeAlias = Select[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Lockable:
    """A query that locks the rows it finds, in its order, where the transaction writes."""

    plain: AnySelect
    locked: AnySelect

    @classmethod
    def of(cls, query: AnySelect) -> Self:
        """NO KEY UPDATE, so that a foreign key's check in another transaction need not wait; nothing on SQLite."""
        return cls(query, query.with_for_update(key_share=True))


class Upsert:
    """`INSERT … ON CONFLICT`, which SQLAlchemy spells once for each database."""

    def __init__(self, table: Table, *, replacing: Sequence[str] = ()) -> None:
        self._statements: dict[str, Insert] = {}
        for name, insert in (("sqlite", sqlite.insert(table)), ("postgresql", postgresql.insert(table))):
            if replacing:
                keys = [column.name for column in table.primary_key]
                new = {column: insert.excluded[column] for column in replacing}
                statement = insert.on_conflict_do_update(index_elements=keys, set_=new)
            else:
                statement = insert.on_conflict_do_nothing()
            self._statements[name] = statement

    def on(self, connection: Connection) -> Insert:
        """The statement in the words of this connection's database."""
        return self._statements[connection.dialect.name]


class Bulk:
    """One statement run for many rows, as tuples in the order of `names`, handed to the driver as they are.

    For the statements of the hot paths only. Through `Connection.execute`, SQLAlchemy makes a dictionary and walks the
    bind processors for each row. With that and `dataclasses.asdict` gone, a submitted job in a batch of 50 went from 60
    to 37 us, an event in a batch of 500 from 21 to 7 us (of budgets of 60 and 20). What a value needs (an
    enumeration's word, JSON) is done by the caller.
    """

    def __init__(self, statement: ClauseElement | Upsert, names: Sequence[str]) -> None:
        self._statement = statement
        self._names = list(names)
        self._compiled: dict[str, tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]] | None]] = {}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Runs it for every row, which must not be empty; answers how many it met, -1: the driver does not count."""
        sql, order = self._on(connection)
        return connection.exec_driver_sql(sql, list(rows if order is None else map(order, rows))).rowcount

    def run_one(self, connection: Connection, row: tuple[Any, ...]) -> int:
        """Runs it for one row; answers how many rows of the table it met."""
        sql, order = self._on(connection)
        return connection.exec_driver_sql(sql, row if order is None else order(row)).rowcount

    def _on(self, connection: Connection) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]] | None]:
        name = connection.dialect.name
        if name not in self._compiled:
            self._compiled[name] = self._compile(connection)
        return self._compiled[name]

    def _compile(self, connection: Connection) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]] | None]:
        statement = self._statement.on(connection) if isinstance(self._statement, Upsert) else self._statement
        compiled = statement.compile(dialect=connection.dialect, column_keys=self._names)
        order = list(cast("SQLCompiler", compiled).positiontup or ())
        if order == self._names:
            return str(compiled), None
        return str(compiled), itemgetter(*(self._names.index(name) for name in order))


class Bound:
    """Something bound to one open transaction."""

    def __init__(self, connection: Connection, *, locking: bool) -> None:
        self._connection = connection
        self._locking = locking

    def _run(
        self, statement: Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        return self._connection.execute(statement, values)

    def _all(self, query: Executable | Lockable, values: Mapping[str, Any] | None = None) -> Sequence[AnyRow]:
        return self._connection.execute(self._chosen(query), values).all()

    def _first(self, query: Executable | Lockable, values: Mapping[str, Any] | None = None) -> AnyRow | None:
        return self._connection.execute(self._chosen(query), values).first()

    def _chosen(self, query: Executable | Lockable) -> Executable:
        if isinstance(query, Lockable):
            return query.locked if self._locking else query.plain
        return query
