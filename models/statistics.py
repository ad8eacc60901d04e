"""What a family may ask the sites for beside gradients: sums of public, bounded functions of a record."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Statistics(ABC):
    """The bounded vector phi(record) whose sum over all units a statistics round releases, with noise.

    A statistics round is one Gaussian release over every unit of every site (Dwork, Roth, 2014, theorem A.1). What it
    costs follows from :meth:`norm` alone, which must therefore hold for **every** record that could be written down,
    not for those that occur. phi may depend on the round and on the shared weights, both of which are public, and on
    nothing else.

    Rounds are numbered from 1, among the statistics rounds alone.
    """

    @abstractmethod
    def dimension(self, number: int) -> int:
        """Return the number of coordinates of phi in a statistics round."""

    @abstractmethod
    def norm(self, number: int) -> float:
        """Return the public bound of the Euclidean norm of phi(record), over every possible record; positive."""

    @abstractmethod
    def weighted_sum(self, number: int, codes: Tensor, weights: Tensor) -> Tensor:
        """Add up phi over records.

        Args:
            number: Of the statistics round, from 1.
            codes: Records, int64 ``[n, columns]``; n may be zero.
            weights: What each record counts, float64 ``[n]``, from 0 to 1.

        Returns:
            The sum over i of ``weights[i] * phi(codes[i])``, float64 ``[dimension(number)]``.
        """

    def norms(self, number: int, codes: Tensor) -> Tensor:
        """Return the Euclidean norm of phi of each record, float64 ``[n]``; sites scale longer ones down to the bound.

        This way, one record at a time, is right for every family and slow: 10,000 records take seconds. Where phi
        depends on nothing but the records, and the bound is a theorem, the norms may simply be worked out; where it
        depends on weights that the sites receive, they must be taken of the same numbers that are added up.

        Args:
            number: Of the statistics round, from 1.
            codes: Records, int64 ``[n, columns]``.
        """
        one = torch.ones(1, dtype=torch.float64, device=codes.device)
        found = [torch.linalg.vector_norm(self.weighted_sum(number, codes[[row]], one)) for row in range(len(codes))]
        return torch.stack(found) if found else one[:0]
