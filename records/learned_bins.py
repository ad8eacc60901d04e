"""Cells whose edges are quantiles of counts that were released: for columns whose values crowd nobody knows where."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from protocol.errors import SchemaError
from records.column import Column, Kind
from records.schema import Schema


def learning_columns(schema: Schema) -> tuple[str, ...]:
    """Return the names of the columns whose cells the schema allows to be learnt.

    Raises:
        SchemaError: There is none.
    """
    names = tuple(column.name for column in schema.columns if column.learn_bins)
    if not names:
        raise SchemaError(
            "No column allows its cells to be learnt.",
            remedy="Set learn_bins = true on the columns that should, before the study whose counts are used.",
        )
    return names


def with_learned_bins(schema: Schema, codes: npt.NDArray[np.integer], *, bins: int, source: str) -> Schema:
    """Put the cells of every column with ``learn_bins`` together until each holds about as many records.

    A column of no more than ``bins`` cells keeps them, and so does one whose cells a constraint needs.

    What comes out is a function of ``codes`` alone: where these were released, or drawn from a release, it tells
    nothing more about anybody than the release did.

    Args:
        schema: Of the release.
        codes: Synthetic records drawn from it, ``[n, columns]``, never real ones.
        bins: Most cells of a column, beside those of its points.
        source: What the new schema says of where its edges are from; one sentence.

    Returns:
        The schema with explicit edges in these columns, and ``source`` in its description.

    Raises:
        SchemaError: No column allows it, there are fewer than 2 bins, or no records.
    """
    learning_columns(schema)
    if bins < 2:
        raise SchemaError(f"bins = {bins}.", remedy="Ask for at least 2 cells.")
    if not len(codes):
        raise SchemaError("There are no records to learn cells from.", remedy="Draw some thousand from the release.")
    description = " ".join(part for part in (schema.description, source) if part)
    learnt = replace(schema, description=description)
    for index, column in enumerate(schema.columns):
        if column.learn_bins:
            counts = np.bincount(codes[:, index], minlength=column.cardinality)
            learnt = _with_column(learnt, index, _relaid(column, counts, bins=bins))
    return learnt


def _with_column(schema: Schema, index: int, column: Column) -> Schema:
    """Put a column in its place; where a constraint needs its old cells, it keeps them."""
    for chosen in (column, replace(schema.columns[index], learn_bins=False)):
        columns = (*schema.columns[:index], chosen, *schema.columns[index + 1 :])
        try:
            return replace(schema, columns=columns)
        except SchemaError:
            if chosen is not column:
                raise
    return schema


def _relaid(column: Column, counts: npt.NDArray[np.integer], *, bins: int) -> Column:
    """Give a column explicit edges at the quantiles of the counts of its codes ``[K]``."""
    column = replace(column, learn_bins=False)
    cells = column.cells
    if cells is None or column.lower is None or column.upper is None:
        raise SchemaError(f"Column {column.name}: has no cells.", remedy="Remove learn_bins.")
    if cells.count - len(column.points) <= bins:
        return column
    whole = column.kind is Kind.INTEGER
    number = int if whole else float
    starts = cells.edges[:-1]
    placed = {column.position(point) for point in column.points}
    mass = np.where(np.isin(starts, list(placed)), 0, counts[: cells.count]).astype(np.float64)
    below = np.concatenate([[0.0], mass.cumsum()])
    # The edge that is nearest to each quantile, among those that a schema can name: the float after a point is none.
    after_points = {p + 1.0 if whole else float(np.nextafter(p, np.inf)) for p in placed}
    usable = [k for k in range(1, cells.count) if starts[k] not in after_points and starts[k] < float(column.upper)]
    wanted = below[-1] * np.arange(1, bins) / bins
    chosen = {usable[int(np.abs(below[usable] - share).argmin())] for share in wanted} if usable else set()
    inner = tuple(number(starts[k]) for k in sorted(chosen))
    # The last edge belongs to the last cell: a largest value that many records hold keeps the cell that it had.
    own = whole and starts[-1] == column.upper and mass[-1] >= below[-1] / bins
    points = (*column.points, number(column.upper)) if own else column.points
    return replace(column, edges=(number(column.lower), *inner, number(column.upper)), bins=None, points=points)
