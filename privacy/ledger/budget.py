"""Whether one more charge keeps every ceiling."""

from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime

from privacy.accounting import tally
from privacy.ceiling import Allowance, Ceiling
from privacy.ledger.chain import Chain
from privacy.ledger.entries import Charge
from protocol.errors import BudgetError

_RECENT = 8
_REMEDY = "Ask for fewer rounds or more noise, or let the site's policy allow more."


class Budget:
    """Checks charges against ceilings, and remembers what it learnt of them."""

    def __init__(self) -> None:
        self._allowances: dict[Ceiling, Allowance] = {}
        self._recent: deque[Charge] = deque(maxlen=_RECENT)

    def note(self, charge: Charge) -> None:
        """Takes in a charge that was written: a hint of what will be asked next."""
        self._recent.append(charge)

    def check(
        self, chain: Chain, charge: Charge, *, ceilings: Sequence[Ceiling], study_rounds: int | None, now: datetime
    ) -> None:
        """Refuses a charge that would pass a ceiling; changes nothing that counts.

        Args:
            chain: Everything that was charged before.
            charge: What would be charged.
            ceilings: All must be kept.
            study_rounds: The most rounds of its study and kind, in all runs; None for no limit.
            now: The time of the charge.

        Raises:
            BudgetError: Naming the first ceiling that would be passed.
            AccountingError: If the event cannot be accounted for with the others.
        """
        asked = f"Round {charge.first_round} of run {charge.run!r} ({charge.rounds} rounds) would pass"
        kind = charge.event.kind
        if study_rounds is not None and chain.rounds(charge.study, kind) + charge.rounds > study_rounds:
            raise BudgetError(
                f"{asked} the {study_rounds} rounds of {kind.value} that study {charge.study[:12]} was approved for.",
                remedy="Approve a study with more rounds.",
            )
        for ceiling in ceilings:
            if not self._permits(chain, charge, ceiling, now=now):
                held = "" if ceiling.days is None else f" in {ceiling.days} days"
                raise BudgetError(
                    f"{asked} the ceiling of epsilon {ceiling.epsilon} at delta {ceiling.delta} ({ceiling.relation})"
                    f"{held} on {chain.opening.data_set!r}.",
                    remedy=_REMEDY,
                )

    def _permits(self, chain: Chain, charge: Charge, ceiling: Ceiling, *, now: datetime) -> bool:
        spent = chain.events() if ceiling.days is None else chain.events_within(ceiling.days, now=now)
        total = tally([*spent, charge.event.times(charge.compositions)], ceiling.relation)
        lately: Counter[tuple[float, float]] = Counter()
        for recent in (*self._recent, charge):
            lately.update(tally([recent.event.times(recent.compositions)], ceiling.relation))
        return self._allowances.setdefault(ceiling, Allowance(ceiling)).permits(total, lately)
