"""Records of one site as codes: what training sees, and how a source becomes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from protocol.errors import RecordsError
from records.bins import Codes
from records.codec import Codec, check_codes
from records.reading import flat, texts, truth
from records.rejects import Fault, Rejects
from records.schema import Schema
from records.sources import Source, open_source

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Encoded records.

    Attributes:
        codes: int32 [n, C], column j in ``0..K_j-1``.
        persons: int64 [n], dense ids ``0..P-1`` that say whom a record is about; None without a person key.
        schema: The data dictionary.
        left_out: How many records of the source broke a constraint that says to drop them. It is a count of real
            records, and never leaves the site.

    Raises:
        RecordsError: The arrays do not fit each other or the schema.
    """

    codes: Codes
    persons: Rows | None
    schema: Schema
    left_out: int = 0

    def __post_init__(self) -> None:
        """Check shapes, types and ranges."""
        check_codes(self.codes, self.schema)
        if self.codes.dtype != np.int32:
            raise RecordsError(f"Codes are {self.codes.dtype}.", remedy="Give int32.")
        if self.persons is None:
            return
        if self.persons.shape != (len(self.codes),) or self.persons.dtype != np.int64:
            raise RecordsError(
                f"Persons are {self.persons.dtype} of shape {self.persons.shape}.",
                remedy=f"Give int64 of shape ({len(self.codes)},).",
            )
        # Dense means: a count of ids per person has no gap. Code relies on it to index by person.
        if len(self.persons) and (self.persons.min() < 0 or not np.bincount(self.persons).all()):
            raise RecordsError("Person ids are not dense.", remedy="Number persons 0..P-1 without gaps.")

    def __len__(self) -> int:
        """Number of records, n."""
        return len(self.codes)

    @property
    def units(self) -> Rows:
        """Privacy unit of each record, int64 [n], dense: the person, or the record itself without a key."""
        return np.arange(len(self), dtype=np.int64) if self.persons is None else self.persons

    def with_codes(self, fixed: Mapping[str, int]) -> "Records":
        """Give the records with some columns overwritten.

        Args:
            fixed: By the name of a column, the code that every record gets there; see `records.site_values`.
        """
        if not fixed:
            return self
        codes = self.codes.copy()
        for name, code in fixed.items():
            codes[:, self.schema.index(name)] = code
        return replace(self, codes=codes)

    def take(self, rows: Rows) -> "Records":
        """Give some of the records, persons numbered densely anew.

        Args:
            rows: int [m], positions of records.

        Returns:
            m records in that order.
        """
        persons = None
        if self.persons is not None:
            persons = np.unique(self.persons[rows], return_inverse=True)[1].astype(np.int64)
        return Records(codes=self.codes[rows], persons=persons, schema=self.schema)


def load_records(location: str | Path, *, schema: Schema, fixed: Mapping[str, int] = MappingProxyType({})) -> Records:
    """Read, check and encode all records of a source.

    Args:
        location: File or database, as for :func:`records.sources.open_source`.
        schema: The data dictionary.
        fixed: For columns that are not read from the source, whether it has them or not, the code that every record
            gets there; see `records.site_values`.

    Returns:
        The records, in the order of the source.

    Raises:
        RecordsError: The source cannot be read, or a value does not fit the schema, or a record breaks a constraint.
            The message holds no value of a record. No record is left out but those that a constraint says to drop,
            and these are counted.
    """
    return read_records(open_source(location, schema=schema, unread=tuple(fixed)), schema=schema, fixed=fixed)


def read_records(source: Source, *, schema: Schema, fixed: Mapping[str, int] = MappingProxyType({})) -> Records:
    """Check and encode all records of an open source; otherwise as :func:`load_records`.

    Args:
        source: The source.
        schema: The data dictionary.
        fixed: As for :func:`load_records`.

    Returns:
        The records, in the order of the source.

    Raises:
        RecordsError: As for :func:`load_records`.
    """
    codec, rejects = Codec(schema, fixed=fixed), Rejects()
    codes: list[Codes] = []
    keys: list[pa.Array] = []
    for batch in source.batches():
        encoded, kept = codec.encode_counting(batch, rejects, source=source.name)
        codes.append(encoded[kept])
        if schema.person is not None:
            keys.append(_person_keys(batch, schema, rejects, source.name).filter(pa.array(kept)))
    if not rejects.rows:
        raise RecordsError(f"{source.name}: holds no records.", remedy="Give a source with at least one record.")
    rejects.refuse(source.name)
    # Where all were left out there are no records, which is no error: a refusal would tell the coordinator of it.
    persons = _dense(keys) if schema.person is not None else None
    return Records(codes=np.concatenate(codes), persons=persons, schema=schema, left_out=rejects.left_out)


def _person_keys(batch: pa.RecordBatch, schema: Schema, rejects: Rejects, source: str) -> pa.Array:
    """Give the key of each row as text, and count rows without one."""
    name = str(schema.person)
    if name not in batch.schema.names:
        raise RecordsError(f"{source}: column {name}: is not there.", remedy="Mend person in the schema.")
    keys = texts(flat(batch.column(name)))
    if keys is None:
        rejects.add(name, Fault.UNREADABLE, batch.num_rows)
        return pa.nulls(batch.num_rows, pa.string())
    absent = pc.is_in(keys, value_set=pa.array(["", *schema.missing_values, None], pa.string()))
    rejects.add(name, Fault.NO_PERSON, int(truth(absent).sum()))
    return keys


def _dense(keys: list[pa.Array]) -> Rows:
    """Number persons in the order of their first record."""
    encoded = pa.chunked_array(keys, pa.string()).combine_chunks()
    return np.asarray(flat(encoded).dictionary_encode().indices.to_numpy(zero_copy_only=False), dtype=np.int64)
