"""Strength of association between two columns, whatever their kinds.

- two numeric columns: Pearson's correlation over the rows where both are known, -1 to 1;
- two others: Cramer's V, corrected for chance (Bergsma 2013, "A bias-correction for Cramer's V and
  Tschuprow's T"), 0 to 1; "missing" is a category like any other;
- a numeric column and another: the correlation ratio, corrected for chance (Kelley 1935, "An unbiased
  correlation ratio measure"), 0 to 1, over the rows where the number is known.

The corrections matter because a real and a synthetic table seldom have the same number of rows: uncorrected,
the smaller table shows the stronger associations. A column that does not vary is associated with nothing: 0.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray


def associations(
    codes: NDArray[np.int64], *, values: Sequence[NDArray[np.float64]], is_numeric: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Measure the association of every pair of columns.

    Args:
        codes: Codes ``[n, C]``.
        values: For each column the number each code stands for, ``[K]``, NaN where there is none.
        is_numeric: Which columns are numbers, ``[C]``.

    Returns:
        Symmetric ``[C, C]`` with ones on the diagonal.
    """
    columns = codes.shape[1]
    numbers = {index: values[index][codes[:, index]] for index in np.flatnonzero(is_numeric).tolist()}
    strengths = np.eye(columns)
    for first, second in combinations(range(columns), 2):
        if first in numbers and second in numbers:
            strength = pearson(numbers[first], numbers[second])
        elif first in numbers:
            strength = correlation_ratio(numbers[first], codes[:, second])
        elif second in numbers:
            strength = correlation_ratio(numbers[second], codes[:, first])
        else:
            strength = cramers_v(codes[:, first], codes[:, second])
        strengths[first, second] = strengths[second, first] = strength
    return strengths


def pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of two columns (``[n]``) where both are known; 0 if one is constant.

    >>> pearson(np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 0.0]))
    1.0
    """
    known = np.isfinite(first) & np.isfinite(second)
    left, right = first[known], second[known]
    if not _varies(left) or not _varies(right):
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    # Scaled first, so that squares of very large or very small numbers stay finite.
    left, right = left / np.abs(left).max(), right / np.abs(right).max()
    correlation = float(left @ right / np.sqrt((left @ left) * (right @ right)))
    return min(1.0, max(-1.0, correlation))


def cramers_v(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the bias-corrected Cramer's V of two columns of codes (``[n]``), 0 if one is constant.

    >>> round(cramers_v(np.array([0, 1] * 50), np.array([5, 3] * 50)), 3)
    1.0
    """
    rows = len(first)
    row_counts, left = _counts(first)
    column_counts, right = _counts(second)
    heights, widths = len(row_counts), len(column_counts)
    if rows < 2 or heights < 2 or widths < 2:
        return 0.0
    cells, observed = np.unique(left * widths + right, return_counts=True)
    # Chi-squared per row needs only the cells that occur: sum of n_ij^2 / (r_i c_j), less one.
    phi = float((observed**2 / (row_counts[cells // widths] * column_counts[cells % widths])).sum()) - 1.0
    corrected = max(0.0, phi - (heights - 1) * (widths - 1) / (rows - 1))
    smaller = min(
        heights - (heights - 1) ** 2 / (rows - 1),
        widths - (widths - 1) ** 2 / (rows - 1),
    )
    return min(1.0, float(np.sqrt(corrected / (smaller - 1)))) if smaller > 1 else 0.0


def correlation_ratio(numbers: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Return the square root of the share of a number's variance that groups explain, corrected for chance.

    Args:
        numbers: ``[n]``, NaN where unknown.
        groups: Codes ``[n]``.

    Returns:
        0 to 1; 0 where the number or the group does not vary, or every row is a group of its own.
    """
    known = np.isfinite(numbers)
    numbers = numbers[known]
    if not _varies(numbers):
        return 0.0
    counts, group = _counts(groups[known])
    rows, number_of_groups = len(numbers), len(counts)
    if number_of_groups < 2 or number_of_groups >= rows:
        return 0.0
    centred = numbers - numbers.mean()
    centred = centred / np.abs(centred).max()
    means = np.bincount(group, weights=centred) / counts
    within = float(((centred - means[group]) ** 2).sum())
    explained = 1.0 - within / float(centred @ centred) * (rows - 1) / (rows - number_of_groups)
    return float(np.sqrt(min(1.0, max(0.0, explained))))


def _varies(numbers: NDArray[np.float64]) -> bool:
    return numbers.size > 1 and bool(numbers.min() < numbers.max())


def _counts(codes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How often each code that occurs does, and the renumbered codes."""
    _, renumbered, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return counts.astype(np.float64), renumbered.astype(np.int64)
