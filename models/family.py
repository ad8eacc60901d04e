"""What every model family offers to the rest of the house."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.layout import OneHotLayout


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
    @abstractmethod
    def shared(self) -> nn.Module:
        """The part whose weights go to the sites and whose gradients come back."""

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

    @abstractmethod
    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw records, with some columns restricted to some codes.

        Args:
            count: How many.
            allowed: For a column index, the boolean mask ``[K_j]`` of codes that may be drawn.
            generator: Source of all draws, on the device of the model.

        Returns:
            Codes ``[count, columns]`` (int64), and the log-weight ``[count]`` of each record as an importance
            sample of the model's conditional distribution. Weights are at most zero, and zero without
            restrictions.
        """
