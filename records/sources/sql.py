"""Tables and queries of a database, streamed through SQLAlchemy with a cursor on the server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from protocol.errors import RecordsError

BATCH_ROWS = 20_000
_QUERY_STARTS = ("select", "with")


@dataclass(frozen=True)
class SqlSource:
    """A table or query: an SQLAlchemy URL, ``#``, then the name of a table (or schema.table) or a SELECT.

    Attributes:
        location: ``URL#TABLE`` or ``URL#SELECT ...``; a ``#`` within the URL is written ``%23``.
        drop: Columns that are left out.
    """

    location: str
    drop: tuple[str, ...]

    @property
    def name(self) -> str:
        """The location without its password, and a query without its text."""
        url, wanted = self._url(), self._wanted()
        shown = "query" if _is_query(wanted) else wanted
        return f"{url.render_as_string(hide_password=True)}#{shown}"

    def column_names(self) -> tuple[str, ...]:
        """Run the query, and fetch no row.

        Raises:
            RecordsError: The database, table or driver cannot be had.
        """
        with self._engine() as engine, self._running(engine) as result:
            return tuple(result.keys())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Run the query and stream its rows.

        Yields:
            Blocks of records.

        Raises:
            RecordsError: The database, table or driver cannot be had.
        """
        with self._engine() as engine:
            yield from self._rows(engine)

    @contextmanager
    def _engine(self) -> Iterator[sql.Engine]:
        """Reach the database, and tell its errors in the project's words."""
        url = self._url()
        self._check_file(url)
        try:
            engine = sql.create_engine(url)
        except (NoSuchModuleError, ModuleNotFoundError, ArgumentError):
            raise RecordsError(
                f"{self.name}: no driver for {url.drivername!r}.",
                remedy="Install the driver (for PostgreSQL: pip install 'cloister[postgres]', postgresql+psycopg://).",
            ) from None
        try:
            yield engine
        except SQLAlchemyError as error:
            raise RecordsError(
                f"{self.name}: the database refused ({type(error).__name__}).",
                remedy="Check host, user, password, and the name of the table.",
            ) from None  # the driver's own message may quote values
        finally:
            engine.dispose()

    @contextmanager
    def _running(self, engine: sql.Engine) -> Iterator[sql.CursorResult[Any]]:
        with engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=BATCH_ROWS)
            yield streaming.execute(self._statement())

    def _rows(self, engine: sql.Engine) -> Iterator[pa.RecordBatch]:
        with self._running(engine) as result:
            names = list(result.keys())
            kept = [index for index, name in enumerate(names) if name not in self.drop]
            for rows in result.partitions():
                columns = list(zip(*rows, strict=True))
                yield pa.RecordBatch.from_arrays(
                    [arrow_array(columns[index]) for index in kept], names=[names[index] for index in kept]
                )

    def _url(self) -> sql.URL:
        try:
            return sql.make_url(self.location.partition("#")[0])
        except (ArgumentError, ValueError):
            raise RecordsError(
                "The location of the database is not a URL.",
                remedy="Write it as dialect+driver://user@host/database#table.",
            ) from None

    def _wanted(self) -> str:
        wanted = self.location.partition("#")[2].strip()
        if not wanted:
            raise RecordsError(
                f"{self._url().render_as_string(hide_password=True)}: no table is named.",
                remedy="Add #TABLE or #SELECT ... to the location.",
            )
        return wanted

    def _statement(self) -> sql.Executable:
        wanted = self._wanted()
        if _is_query(wanted):
            return sql.text(wanted)
        schema, _, table = wanted.rpartition(".")
        return sql.select(sql.text("*")).select_from(sql.table(table, schema=schema or None))

    def _check_file(self, url: sql.URL) -> None:
        """Refuse a SQLite file that is not there: SQLite itself would make an empty one."""
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise RecordsError(f"{self.name}: there is no such file.", remedy="Check the path: sqlite:///FILE#TABLE.")


def _is_query(wanted: str) -> bool:
    return wanted.split()[0].lower() in _QUERY_STARTS and len(wanted.split()) > 1


def arrow_array(values: Sequence[Any]) -> pa.Array:
    """Make an Arrow array of what a driver returned.

    Args:
        values: n Python objects.

    Returns:
        Array [n]; values of several types (SQLite allows them) or of foreign ones (UUIDs) become texts.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return _texts(values)
    return _texts(values) if isinstance(array.type, pa.BaseExtensionType) else array  # UUIDs, for example


def _texts(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())
