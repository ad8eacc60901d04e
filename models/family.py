"""What every model family offers to the rest of the house."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from models.layout import OneHotLayout
from models.statistics import Statistics
from protocol.errors import StudyError


class Family(nn.Module, ABC):
    """A generative model of a table, as a federation trains it.

    Sites see only :attr:`shared`: they load its weights, compute :meth:`unit_loss` on their records and send
    what privacy allows of its gradient. Everything else happens at the server on what has already been
    released, and is post-processing.

    Args:
        layout: The table's columns.
    """

    def __init__(self, layout: OneHotLayout) -> None:
        super().__init__()
        self.layout = layout

    def initialise(self, *, generator: torch.Generator) -> None:
        """Draw new initial weights. A new model has those of a generator with the seed 0, on every machine.

        Args:
            generator: Source of the weights, on the device of the model.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                if layer.bias is not None:
                    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
            elif isinstance(layer, nn.EmbeddingBag):
                bound = layer.num_embeddings**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            elif isinstance(layer, nn.BatchNorm1d):
                layer.reset_parameters()

    @property
    def code_columns(self) -> int:
        """Number of codes of a record: one per column, and one per pixel where records have images."""
        return self.layout.columns

    @property
    def most_rows_per_pass(self) -> int:
        """Most records in one pass at a site, a public bound on memory; a unit with more is a pass of its own."""
        return 8192

    @property
    def views_per_record(self) -> int:
        """Rows that :meth:`views` makes of a record."""
        return 1

    def views(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the rows that a site trains on: each record's views next to each other, all of the record's unit.

        Args:
            codes: ``[n, code_columns]``, integers.
            generator: Source of the step's key.

        Returns:
            ``[n * views_per_record, code_columns]``. The views of a record depend on the key and on it alone.
        """
        del generator
        return codes

    @property
    @abstractmethod
    def shared(self) -> nn.Module:
        """The part whose weights go to the sites and whose gradients come back."""

    @property
    def companion(self) -> nn.Module | None:
        """Released weights that sites receive beside :attr:`shared` for several local steps, and never train."""
        return None

    @property
    @abstractmethod
    def generator(self) -> nn.Module:
        """The part that a release holds and that :meth:`draw` needs."""

    @abstractmethod
    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return one loss per record, ``[n]``, of codes ``[n, columns]``; row i depends on record i alone."""

    def public_gradient(self, *, clip_norm: float, generator: torch.Generator) -> Tensor | None:
        """Return the mean gradient of loss terms that no record enters, flat ``[d]`` float64, or None.

        It is added, without noise, to the released mean gradient of the records.
        """
        del clip_norm, generator
        return None

    def free_steps(self, *, generator: torch.Generator) -> None:
        """Train on what has been released: called after every step of :attr:`shared`."""
        del generator

    def training_state(self) -> dict[str, Tensor]:
        """Return what :meth:`free_steps` remembers beside the weights and buffers: moments of optimisers, counters.

        Training that goes on from it and from the weights is, to the last bit, training that never stopped.
        """
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`training_state` returned, the weights having been loaded before."""
        del state

    @property
    def device(self) -> torch.device:
        """Where the model lives; the processor, where it holds no numbers at all."""
        return next((held.device for held in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    @property
    def statistics(self) -> Statistics | None:
        """What statistics rounds release of a record for this family; None where it knows no such rounds."""
        return None

    @property
    def statistics_rounds(self) -> int:
        """How many statistics rounds the family has a use for; more than these are refused."""
        return 0 if self.statistics is None else 1

    def learn_statistics(self, number: int, means: Tensor, *, deviation: float, generator: torch.Generator) -> None:
        """Learn from what a statistics round released; all of it is post-processing.

        Here a family sets biases, or trains freely on the released numbers. The average of the weights that a release
        holds starts again at the weights as they are afterwards. What the release or a later round needs must be among
        the weights and buffers. A round that ended without a sum is not learnt from.

        Args:
            number: Of the statistics round, from 1.
            means: Noisy sum of phi over all units of all sites, over the public number of units; float64
                ``[dimension]``. Where the public number is rough, so is the scale.
            deviation: Standard deviation of the noise in each coordinate of ``means``; 0 where the study adds none.
            generator: Source of the server's own draws.

        Raises:
            StudyError: If the family has no use for statistics.
        """
        del means, deviation, generator
        raise StudyError(
            f"The family {type(self).__name__} learns nothing from statistics round {number}.",
            remedy="Write statistics.rounds = 0 into the study.",
        )

    @abstractmethod
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw records, with some columns restricted to some codes.

        Args:
            count: How many.
            allowed: For a column index, the boolean mask ``[K_j]`` of codes that may be drawn.
            generator: Source of all draws, on the device of the model.

        Returns:
            Codes ``[count, columns]`` (int64; without pixels, see :meth:`depict`), and the log-weight ``[count]`` of
            each record as an importance sample of the model's conditional distribution. Weights are at most zero, and
            zero without restrictions.
        """

    def depict(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return whole records of drawn columns: with images, where records have some.

        Args:
            codes: ``[n, columns]``, as of :meth:`draw`.
            generator: Source of all draws, on the device of the model.

        Returns:
            ``[n, code_columns]``, int64.
        """
        del generator
        return codes
