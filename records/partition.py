"""Part the records of one file among simulated sites."""

import math

import numpy as np
import numpy.typing as npt

from protocol.errors import SchemaError, StudyError
from records.dataset import Records, Rows

_SCHEMES = "Use iid, dirichlet:A with A above zero, quantity:R with R of at least one, or column:NAME."


def partition(records: Records, scheme: str, *, sites: int, generator: np.random.Generator) -> list[Rows]:
    """Give every record to exactly one site.

    ``iid``: units (persons, or records without a person key) in random order, in shares of equal size.
    ``dirichlet:A``: label skew; for each code of the target, the shares of the sites are drawn from a
    symmetric Dirichlet distribution with concentration A (Yurochkin et al. 2019, section 4). A person
    has the label of the person's first record. A site that got nothing takes one unit from the largest site.
    ``quantity:R``: size skew; units in random order, the first site R times as large as the last, in geometric steps.
    A site that got nothing takes one unit from the largest site.
    ``column:NAME``: one site per code of the column, the largest first; with fewer sites than codes, the last
    site takes the rest. Here a person may be at several sites, as in life.

    Args:
        records: n records.
        scheme: One of the four.
        sites: Number of sites.
        generator: Source of randomness.

    Returns:
        For each site the positions of its records, int64 in increasing order; together ``0..n-1``, each once.

    Raises:
        StudyError: An unknown scheme, or more sites than there are units or codes.

    Examples:
        >>> from records.schema import Column, Kind, Schema
        >>> schema = Schema(columns=(Column(name="ward", kind=Kind.CATEGORICAL, categories=("a", "b")),))
        >>> codes = np.array([[0], [1], [0]], dtype=np.int32)
        >>> records = Records(codes=codes, persons=None, schema=schema)
        >>> partition(records, "column:ward", sites=2, generator=np.random.default_rng(0))
        [array([0, 2]), array([1])]
    """
    if sites < 1:
        raise StudyError(f"sites = {sites}.", remedy="Use at least one site.")
    name, _, argument = scheme.partition(":")
    if name == "column" and argument:
        return _by_column(records, argument, sites)
    if scheme != "iid" and (name not in ("dirichlet", "quantity") or not argument):
        raise StudyError(f"partition = {scheme!r} is not known.", remedy=_SCHEMES)
    units = int(records.units.max()) + 1 if len(records) else 0
    if sites > units:
        raise StudyError(f"sites = {sites}, but there are {units} units to part.", remedy="Use fewer sites.")
    if name == "iid":
        site_of_unit = generator.permutation(np.arange(units) % sites)
    elif name == "quantity":
        site_of_unit = _by_quantity(units, _number(scheme, argument, least=1.0), sites, generator)
    else:
        concentration = _number(scheme, argument, least=np.nextafter(0.0, 1.0))
        site_of_unit = _dirichlet(_labels(records, units), concentration, sites, generator)
    return _rows(site_of_unit[records.units], sites)


def _rows(site_of_record: npt.NDArray[np.integer], sites: int) -> list[Rows]:
    order = np.argsort(site_of_record, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(site_of_record, minlength=sites))
    return np.split(order, ends[:-1])


def _labels(records: Records, units: int) -> npt.NDArray[np.int32]:
    """Give the target code of each unit: that of its first record."""
    target = records.schema.target
    if target is None:
        raise StudyError("partition = dirichlet without a target.", remedy="Set target in the schema, or use iid.")
    first = np.full(units, len(records))
    np.minimum.at(first, records.units, np.arange(len(records)))
    return np.asarray(records.codes[first, records.schema.index(target)], dtype=np.int32)


def _number(scheme: str, argument: str, *, least: float) -> float:
    try:
        number = float(argument)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        bound = "at least one" if least >= 1 else "above zero"
        raise StudyError(f"partition = {scheme!r}: {argument!r} is not {bound}.", remedy=_SCHEMES)
    return number


def _by_quantity(units: int, ratio: float, sites: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Give the site of each unit: sizes fall geometrically from the first site to the last."""
    shares = ratio ** -np.linspace(0.0, 1.0, sites)
    ends = np.round(np.cumsum(shares) / shares.sum() * units).astype(np.int64)
    site_of_unit = np.searchsorted(ends, np.arange(units), side="right")
    site_of_unit = generator.permutation(site_of_unit)
    _feed_empty_sites(site_of_unit, sites, generator)
    return site_of_unit


def _dirichlet(
    labels: npt.NDArray[np.int32], concentration: float, sites: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Give the site of each unit."""
    site_of_unit = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(sites, concentration))
        ends = np.round(np.cumsum(np.nan_to_num(shares, nan=1 / sites)) * len(members)).astype(np.int64)
        ends[-1] = len(members)
        site_of_unit[members] = np.searchsorted(ends, np.arange(len(members)), side="right")
    _feed_empty_sites(site_of_unit, sites, generator)
    return site_of_unit


def _feed_empty_sites(site_of_unit: npt.NDArray[np.int64], sites: int, generator: np.random.Generator) -> None:
    sizes = np.bincount(site_of_unit, minlength=sites)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(np.argmax(sizes))
        moved = generator.choice(np.flatnonzero(site_of_unit == largest))
        site_of_unit[moved] = empty
        sizes[largest], sizes[empty] = sizes[largest] - 1, 1


def _by_column(records: Records, name: str, sites: int) -> list[Rows]:
    try:
        codes = records.codes[:, records.schema.index(name)]
    except SchemaError as error:
        raise StudyError(f"partition = column:{name}: there is no such column.", remedy=error.remedy) from None
    present, counts = np.unique(codes, return_counts=True)
    if sites > len(present):
        raise StudyError(
            f"sites = {sites}, but column {name} has {len(present)} values.",
            remedy=f"Use at most {len(present)} sites.",
        )
    largest_first = present[np.argsort(-counts, kind="stable")]
    site_of_code = np.full(records.schema.column(name).cardinality, sites - 1)
    site_of_code[largest_first[:sites]] = np.arange(sites)
    return _rows(site_of_code[codes], sites)
