"""How long one step of DP-SGD takes, beside a step without privacy: ``python -m perf.dp_step [--json]``.

The model is the flagship (VAE) with a weight for every code, on a table like the binned Adult census, the batch is
Poisson sampled with 2,048 expected records of 40,000. The private step is all that a site and the server do:
sampling, gathering, the clipped gradient sum, the integer grid, discrete Gaussian noise, and the optimiser.

``plain_ms`` is the same model trained in ordinary PyTorch; ``dense_ms`` the same with linear layers on
one-hot vectors in place of indicators by place. ``ratio`` is the private step over the faster of the two. The
modes of Opacus run on the dense model, which they know all layers of, each with Opacus' own noise and
optimiser.

``splines_ratio`` is that of the default of small budgets, where codes on a line share a few features: numbers and not
indicators enter its layers, so that its plain step is the only one.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional

from models.autoregressive import INPUT_SCALE, LATENT_SCALE
from models.latent_noise import record_noise
from models.layout import OneHotLayout
from models.vae import VaeOptions, VariationalAutoencoder
from privacy.dp_sgd import clipped_gradient_sum, parameter_count
from privacy.mechanisms.gaussian import GaussianMechanism
from privacy.mechanisms.grid import IntegerGrid
from protocol.randomness import SystemRandom

CARDINALITIES = (85, 9, 100, 16, 7, 15, 6, 5, 2, 100, 100, 99, 42, 2)
ORDERED = (85, 0, 100, 16, 0, 0, 0, 0, 0, 100, 100, 99, 0, 2)
RECORDS = 40_000
RATE = 0.0512
BATCH = round(RECORDS * RATE)
LEARNING_RATE = 1e-3


class DenseTwin(nn.Module):
    """The flagship without splines, written out with one-hot vectors: the same function, the same parameters.

    Args:
        layout: The table's columns.
        latent: Size of the latent vector.
    """

    def __init__(self, layout: OneHotLayout, *, latent: int) -> None:
        super().__init__()
        self.layout = layout
        self.latent = latent
        self.order = sorted(range(layout.columns), key=layout.cardinalities.__getitem__)
        sizes = [layout.cardinalities[column] for column in self.order]
        self.encoder = nn.Linear(layout.width, 2 * latent, bias=False)
        self.shapes = nn.Linear(1, layout.width, bias=False)
        self.heads = nn.ModuleList(nn.Linear(latent + sum(sizes[:j]), size, bias=False) for j, size in enumerate(sizes))

    def forward(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of every record, ``[n]``."""
        blocks = self.layout.split(self.layout.encode(codes))
        mean, log_variance = (LATENT_SCALE * self.encoder(torch.cat(list(blocks), dim=1))).chunk(2, dim=1)
        noise = record_noise(codes, self.latent, generator=generator)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        total: Tensor = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        shapes = self.layout.split(self.shapes(latent.new_ones(len(codes), 1)))
        known = [LATENT_SCALE * latent]
        for column, head in zip(self.order, self.heads, strict=True):
            logits = shapes[column] + head(torch.cat(known, dim=1))
            total = total + functional.cross_entropy(logits, codes[:, column].long(), reduction="none")
            known.append(INPUT_SCALE * blocks[column])
        return total


class Bench:
    """One table, and the steps that are timed on it.

    Args:
        noise_multiplier: Of the private steps.
        splines: Whether codes that lie on a line share features.
    """

    def __init__(self, *, noise_multiplier: float, splines: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.random = SystemRandom()
        self.layout = OneHotLayout(cardinalities=CARDINALITIES, ordered=ORDERED if splines else ())
        self.noise_multiplier = noise_multiplier
        columns = [torch.randint(size, (RECORDS,), generator=self.generator) for size in CARDINALITIES]
        self.table = torch.stack(columns, dim=1).to(torch.int16)

    def batch(self) -> Tensor:
        """Return the records of a Poisson sample."""
        return self.table[torch.from_numpy(np.flatnonzero(self.random.bernoulli(RECORDS, RATE)))]

    def plain(self) -> Callable[[], None]:
        """Return an ordinary step of the flagship."""
        return self._ordinary(self._flagship(), lambda model, codes: model.unit_loss(codes, generator=self.generator))

    def dense(self) -> Callable[[], None]:
        """Return an ordinary step of the dense twin."""
        return self._ordinary(self._twin(), lambda model, codes: model(codes, self.generator))

    def private(self) -> Callable[[], None]:
        """Return a private step of the flagship, from the sample to the optimiser."""
        model, mechanism = self._flagship(), self.mechanism()
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)

        def step() -> None:
            codes = self.batch()
            total = clipped_gradient_sum(
                model, lambda: model.unit_loss(codes, generator=self.generator), units=None, clip_norm=1.0
            )
            words = mechanism.privatise(total.numpy(), random=self.random)
            mean = torch.from_numpy(mechanism.grid.dequantise(words)).float() / BATCH
            for parameter, part in zip(parameters, torch.split_with_sizes(mean, sizes), strict=True):
                parameter.grad = part.view_as(parameter)
            optimiser.step()

        return step

    def noise(self) -> Callable[[], None]:
        """Return the mechanism alone."""
        mechanism = self.mechanism()
        zeros = np.zeros(mechanism.grid.dimension)
        return lambda: void(mechanism.privatise(zeros, random=self.random))

    def mechanism(self) -> GaussianMechanism:
        """Return the mechanism of a private step."""
        grid = IntegerGrid.fit(
            clip_norm=1.0,
            dimension=parameter_count(self._flagship()),
            expected_units=BATCH,
            noise_multiplier=self.noise_multiplier,
        )
        return GaussianMechanism(grid=grid, noise_multiplier=self.noise_multiplier)

    def opacus(self, *, functorch: bool) -> Callable[[], None]:
        """Return a step with materialised per-sample gradients, by hooks or by functorch."""
        model = GradSampleModule(self._twin(), force_functorch=functorch)
        optimiser = DPOptimizer(torch.optim.Adam(model.parameters(), lr=LEARNING_RATE), **self._opacus_options())
        return self._opacus_step(model, optimiser, lambda losses: torch.autograd.backward([losses.mean()]))

    def ghost(self) -> Callable[[], None]:
        """Return a step with ghost clipping: norms in one backward pass, the sum in a second."""
        model = GradSampleModuleFastGradientClipping(
            self._twin(), max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="mean"
        )
        optimiser = DPOptimizerFastGradientClipping(
            torch.optim.Adam(model.parameters(), lr=LEARNING_RATE), **self._opacus_options()
        )
        return self._opacus_step(
            model,
            optimiser,
            lambda losses: DPTensorFastGradientClipping(model, optimiser, losses, "mean").backward(),
        )

    def _opacus_options(self) -> dict[str, Any]:
        return {
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": 1.0,
            "expected_batch_size": BATCH,
            "generator": self.generator,
        }

    def _opacus_step(self, model: Any, optimiser: Any, backward: Callable[[Tensor], None]) -> Callable[[], None]:  # noqa: ANN401  # Opacus has no types
        def step() -> None:
            codes = self.batch()
            optimiser.zero_grad(set_to_none=True)
            backward(model(codes, self.generator))
            optimiser.step()

        return step

    def _ordinary(self, model: Any, loss: Callable[[Any, Tensor], Tensor]) -> Callable[[], None]:  # noqa: ANN401  # two classes
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

        def step() -> None:
            codes = self.batch()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward([loss(model, codes).mean()])
            optimiser.step()

        return step

    def _flagship(self) -> VariationalAutoencoder:
        return VariationalAutoencoder(self.layout, VaeOptions())

    def _twin(self) -> DenseTwin:
        return DenseTwin(self.layout, latent=VaeOptions().latent)


def void(_: object) -> None:
    """Drop a result."""


def medians(steps: Mapping[str, Callable[[], None]], *, repeats: int, warm_up: int) -> dict[str, float]:
    """Return the median milliseconds of every step, the steps taking turns."""
    for _ in range(warm_up):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(*, repeats: int, slow_repeats: int, noise_multiplier: float) -> dict[str, float]:
    """Return all numbers; the slow modes of Opacus are left out where ``slow_repeats`` is zero."""
    bench = Bench(noise_multiplier=noise_multiplier)
    smooth = Bench(noise_multiplier=noise_multiplier, splines=True)
    quick = medians(
        {
            "plain_ms": bench.plain(),
            "dense_ms": bench.dense(),
            "dp_ms": bench.private(),
            "noise_ms": bench.noise(),
            "splines_plain_ms": smooth.plain(),
            "splines_dp_ms": smooth.private(),
        },
        repeats=repeats,
        warm_up=3,
    )
    result = {
        "ratio": quick["dp_ms"] / min(quick["plain_ms"], quick["dense_ms"]),
        "splines_ratio": quick["splines_dp_ms"] / quick["splines_plain_ms"],
        **quick,
    }
    slow = {
        "hooks_ms": lambda: bench.opacus(functorch=False),
        "functorch_ms": lambda: bench.opacus(functorch=True),
        "ghost_ms": bench.ghost,
    }
    for name, make in slow.items() if slow_repeats else ():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Opacus warns of its insecure noise, which is only timed here
            result |= medians({name: make()}, repeats=slow_repeats, warm_up=1)
    result |= {"batch": BATCH, "columns": len(CARDINALITIES), "parameters": bench.mechanism().grid.dimension}
    return result | {"threads": torch.get_num_threads()}


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perf.dp_step", description="Time one step of DP-SGD.")
    parser.add_argument("--json", action="store_true", help="write one flat JSON object")
    parser.add_argument("--repeats", type=int, default=30, help="timings of the quick steps (30)")
    parser.add_argument("--slow-repeats", type=int, default=3, help="timings of Opacus' modes, 0 for none (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch (2)")
    parser.add_argument("--noise-multiplier", type=float, default=1.0, help="noise over clip norm (1.0)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    result = measure(
        repeats=options.repeats, slow_repeats=options.slow_repeats, noise_multiplier=options.noise_multiplier
    )
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return 0
    for name, value in result.items():
        sys.stdout.write(f"{name:<16}{value:>12.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
