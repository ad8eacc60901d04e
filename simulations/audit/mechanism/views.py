"""What an opponent sees of a twin's run, as numbers: releases less all that is known, and who was in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.audit.mechanism.canaries import Canaries
from privacy.audit.mechanism.residuals import Check, Property, exact_check
from privacy.plan import PrivacyPlan
from protocol.study import Study
from protocol.terms import ContributionKind, Trust
from simulations.audit.mechanism.run import RunLog

LOCAL_STEP = "one local step"
SENT = "what one site sends"
SHARE = "one site's share before it is masked"
OPENED = "the opened sum"
COLLUDERS = "the sum less what colluders know"


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Releases of one kind, of one site or of all.

    Attributes:
        name: What is seen: one of the names above.
        where: The site, or the federation.
        noise: float64 [T, d], releases less what the canaries add, in planned standard deviations.
        scores: float64 [T, K], releases along the canaries' directions, in clip norms.
        counts: int64 [T, K], how often each canary is in each release.
        planned: Planned standard deviation of a coordinate, in clip norms.
        steps: Number of noisy steps that one release sums up.
        bounds: Whether a claim is made about it: a share by itself promises nothing.
    """

    name: str
    where: str
    noise: NDArray[np.float64]
    scores: NDArray[np.float64]
    counts: NDArray[np.int64]
    planned: float
    steps: int
    bounds: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Roles:
    """Who is who in a twin.

    Attributes:
        honest: Sites that hold canaries, or nothing.
        colluding: Sites that tell the opponent what they sent.
        away: Sites that drop out of every round.
    """

    honest: tuple[str, ...]
    colluding: tuple[str, ...] = ()
    away: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """Sites whose vectors are in a sum."""
        return (*self.honest, *self.colluding)


class Observer:
    """Turns logs of a twin into views.

    Args:
        study: The twin's study.
        canaries: The canaries.
        roles: Who is who.

    Attributes:
        unseen: Names of views, once for each place, that a run would have had, were they linear in the noisy sums.
    """

    def __init__(self, study: Study, canaries: Canaries, roles: Roles) -> None:
        self.study = study
        self.plan = PrivacyPlan.from_study(study)
        self.canaries = canaries
        self.roles = roles
        self.unseen: list[str] = []
        mechanism = self.plan.step_mechanism(canaries.dimension)
        self._unit = mechanism.grid.step / study.privacy.clip_norm
        self._sigma = mechanism.sigma * self._unit
        self._update_grid = self.plan.update_grid(canaries.dimension)
        training = study.training
        self._updates = training.strategy is ContributionKind.UPDATES
        self._local = training.local_steps if self._updates else 1
        # What one unit of a noisy sum, in clip norms, changes a site's weights by.
        rate = training.local_learning_rate * study.privacy.clip_norm
        self._move = rate / self.plan.expected_units_per_site

    def views(self, log: RunLog) -> Iterator[View]:
        """Yield all views of a run."""
        summed = self.study.privacy.trust is Trust.SUM
        for site in self.roles.honest:
            name = LOCAL_STEP if self._updates else SHARE if summed else SENT
            words = log.sites[site].words if self._updates or summed else log.sites[site].left
            releases = np.stack(words).astype(np.float64) * self._unit
            counts = np.stack(log.sites[site].taken)
            yield self._view(name, site, releases, counts, planned=self._sigma, bounds=name != SHARE)
            if self._updates and not summed:
                if self._unclipped(log, (site,)):
                    yield self._sent_update(log, site)
                else:
                    self.unseen.append(SENT)
        if summed:
            yield from self._sums(log)

    def samples(self, log: RunLog, held: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
        """Which unit is in which batch, bool [T, n], by site, of the canaries that it holds."""
        return {site: np.stack(log.sites[site].taken)[:, held[site]] > 0 for site in self.roles.honest}

    def derived(self, log: RunLog) -> Check:
        """Check that what left, or what was opened, is what the noisy sums come to and nothing else."""
        if self.study.privacy.trust is Trust.SUM:
            found = np.stack(log.opened)
            expected = sum(self._predicted(log, site) for site in self.roles.present)
            slack = len(self.roles.present) if self._updates else 0
            holds = bool(np.abs(found - expected).max() <= slack)
            return exact_check(Property.DERIVED, holds=holds, where=OPENED)
        slack = 1 if self._updates else 0
        gaps = [np.abs(np.stack(log.sites[site].left) - self._predicted(log, site)).max() for site in self.roles.honest]
        return exact_check(Property.DERIVED, holds=bool(max(gaps) <= slack), where=SENT)

    def _view(
        self,
        name: str,
        where: str,
        releases: NDArray[np.float64],
        counts: NDArray[np.int64],
        *,
        planned: float,
        bounds: bool,
        steps: int = 1,
    ) -> View:
        return View(
            name=name,
            where=where,
            noise=(releases - self.canaries.expected(counts)) / planned,
            scores=self.canaries.scores(releases),
            counts=counts,
            planned=planned,
            steps=steps,
            bounds=bounds,
        )

    def _sums(self, log: RunLog) -> Iterator[View]:
        """What the coordinator opens, and what is left of it for colluders."""
        unit = -self._update_grid.step / self._move if self._updates else self._unit
        if self._updates and not self._unclipped(log, self.roles.present):
            self.unseen += [OPENED, COLLUDERS]
            return
        opened = np.stack(log.opened).astype(np.float64)
        known = sum((self._predicted(log, site) for site in self.roles.colluding), np.zeros(1))
        counts = sum((self._rounds(np.stack(log.sites[site].taken)) for site in self.roles.present), np.int64(0))
        for name, sums, sites in (
            (OPENED, opened, len(self.roles.present)),
            (COLLUDERS, opened - known, len(self.roles.honest)),
        ):
            planned = self._sigma * (self._local * sites) ** 0.5
            yield self._view(
                name, "federation", sums * unit, np.asarray(counts), planned=planned, bounds=True, steps=self._local
            )

    def _sent_update(self, log: RunLog, site: str) -> View:
        """What a site's change of the weights shows of its local steps."""
        releases = np.stack(log.sites[site].left).astype(np.float64) * (-self._update_grid.step / self._move)
        counts = self._rounds(np.stack(log.sites[site].taken))
        planned = self._sigma * self._local**0.5
        return self._view(SENT, site, releases, counts, planned=planned, bounds=True, steps=self._local)

    def _rounds(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add up the local steps of each round: [T * L, K] to [T, K]."""
        return np.asarray(steps.reshape(-1, self._local, steps.shape[1]).sum(axis=1))

    def _changes(self, log: RunLog, site: str) -> NDArray[np.float64]:
        """The change of the weights that a site's noisy sums come to, before it is bounded, [T, d]."""
        sums = np.stack(log.sites[site].words).astype(np.float64) * self._unit
        return np.asarray(-self._move * sums.reshape(-1, self._local, sums.shape[1]).sum(axis=1))

    def _predicted(self, log: RunLog, site: str) -> NDArray[np.int64]:
        """What a site must send, in grid steps, [T, d], worked out from its noisy sums."""
        if not self._updates:
            return np.stack(log.sites[site].words)
        changes = self._changes(log, site)
        norms = np.linalg.norm(changes, axis=1, keepdims=True)
        changes *= np.minimum(1.0, self.study.training.update_norm / np.maximum(norms, 1e-300))
        return np.stack([self._update_grid.quantise(change) for change in changes])

    def _unclipped(self, log: RunLog, sites: Sequence[str]) -> bool:
        """Whether no change reached the bound, so that it is linear in the noisy sums."""
        norms = [np.linalg.norm(self._changes(log, site), axis=1).max() for site in sites]
        return bool(max(norms) < self.study.training.update_norm)
