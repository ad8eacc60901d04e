"""Two things about a twin that need no statistics: what one unit can do to the exact sum, and what is paid for."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy.audit.mechanism.canaries import Canaries, CanaryKind
from privacy.audit.mechanism.residuals import Check, Property, bound_checks, exact_check
from privacy.ledger import Charge, Ledger, read_entries
from privacy.plan import PrivacyPlan
from protocol.randomness import DeterministicRandom, RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind, Unit
from records.schema import Schema
from simulations.audit.mechanism.canary_family import CanaryRecords, canary_records, plain_records
from simulations.audit.mechanism.run import Member, run_twin
from simulations.audit.mechanism.twin import Parts, SiteLog, TwinPlan
from strategies.server_model import ServerModel
from strategies.study_model import build_study_model, study_schema

_UNITS, _LEFT_OUT = 12, 4
_RECORDS_EACH = (1, 3, 2)
_SPREAD_OF_WEIGHTS = 0.3
_ENDLESS = 1e300  # stands for what is not finite: an interval must be
_ROUNDS = 2  # in each of two runs


def unit_moves(
    study: Study, canaries: Canaries, *, parts: Parts, random: RandomSource
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What one unit does to the exact sum of clipped gradients, or of statistics, in clip norms.

    All units take part, every sum has the same latent draws, and the weights are those of one round. Nothing private
    is computed: the records are made up.

    Args:
        study: The twin's study.
        canaries: The canaries.
        parts: What is replaced.
        random: Source of the records and weights.

    Returns:
        For each unit that was taken away, float64 [n]: how far the sum moved, and how far from the unit's own sum.
    """
    generator = np.random.default_rng(random.seed64())
    schema = study_schema(study)
    units = [*_ordinary_units(study, schema, generator), *_canary_units(study, schema, canaries)]
    # Few public records, so that a pass has few rows.
    few = replace(study.federation, public_records=max(2, 16 * study.federation.sites))
    everybody = replace(study, privacy=replace(study.privacy, sample_rate=1.0), federation=few)
    plan = PrivacyPlan.from_study(everybody)
    received = ServerModel(build_study_model(study), study.training).weights().shape
    ordinary = generator.normal(0.0, _SPREAD_OF_WEIGHTS, received).astype(np.float32)
    statistics = study.training.strategy is ContributionKind.STATISTICS
    seed = random.seed64()

    def exact(held: Sequence[CanaryRecords], weights: NDArray[np.float32], number: int) -> NDArray[np.float64]:
        watched = TwinPlan.watching(plan, parts=parts, words=[])
        trainer = parts.trainer(watched, _joined(held, schema), canaries=canaries, parts=parts, log=SiteLog())
        if statistics:
            return trainer.statistics_sum(weights, number=number)
        return trainer.gradient_sum(weights, random=DeterministicRandom(seed))

    # Some ordinary units, and every canary: each has a reason of its own to break the bound.
    gone = [*range(_LEFT_OUT), *range(_UNITS, len(units))]
    found_moves, found_gaps = [], []
    for number, weights in _received(ordinary, rounds=study.training.rounds if statistics else 0):
        whole = exact(units, weights, number)
        moves = np.stack([whole - exact([*units[:out], *units[out + 1 :]], weights, number) for out in gone])
        gaps = moves - np.stack([exact([units[out]], weights, number) for out in gone])
        found_moves.append(np.linalg.norm(moves, axis=1) / study.privacy.clip_norm)
        found_gaps.append(np.linalg.norm(gaps, axis=1) / study.privacy.clip_norm)
    return np.concatenate(found_moves), np.concatenate(found_gaps)


def _received(ordinary: NDArray[np.float32], *, rounds: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give the weights that a site may receive, with the round it receives them in.

    What a round of statistics adds up may depend on the weights, and a coordinator may send any: ordinary ones, none
    at all, under which everything ties, and huge ones.
    """
    if not rounds:
        yield 1, ordinary
    for number in range(1, rounds + 1):
        yield from ((number, weights) for weights in (ordinary, np.zeros_like(ordinary), ordinary * np.float32(1e20)))


def unit_checks(
    study: Study, canaries: Canaries, *, parts: Parts, random: RandomSource
) -> tuple[tuple[Check, ...], float]:
    """Check what a unit does to exact sums; returns the largest move too, in clip norms."""
    moves, gaps = unit_moves(study, canaries, parts=parts, random=random)
    largest = float(moves.max()) if np.isfinite(moves).all() else _ENDLESS
    return tuple(bound_checks(moves, gaps, where="ordinary units and canaries")), largest


@dataclass(frozen=True, kw_only=True)
class Payments:
    """What left sites and what their ledgers hold.

    Attributes:
        check: Whether it is the same.
        left: Compositions that left.
        paid: How many of them the ledgers hold.
    """

    check: Check
    left: int
    paid: int


def payments(
    study: Study,
    records: Mapping[str, CanaryRecords],
    canaries: Canaries,
    *,
    away: Sequence[str],
    parts: Parts,
    random: RandomSource,
) -> Payments:
    """Run half of a study, start all anew, run the other half, and hold what left against the sites' ledgers.

    Args:
        study: The twin's study.
        records: By site.
        canaries: The canaries.
        away: Sites that drop out.
        parts: What is replaced.
        random: Source of the weights.
    """
    short = replace(study, training=replace(study.training, rounds=2 * _ROUNDS))
    event = PrivacyPlan.from_study(short).round_event
    left, paid, full_price = 0, 0, event is not None
    keys = {name: Ed25519PrivateKey.generate() for name in records}
    with tempfile.TemporaryDirectory() as folder:
        for restarted in (False, True):
            members = _members(records, keys, Path(folder), away, restarted=restarted)
            with _closing(members):
                swapped = {name: _swapped(member, parts, restarted=restarted) for name, member in members.items()}
                log = run_twin(short, swapped, canaries, parts=parts, random=random, stop_after=_ROUNDS)
            left += sum(len(site.left) for site in log.sites.values()) * (event.count if event else 0)
        for name, key in keys.items():
            charges = _charges(Path(folder) / name, key)
            # A site that drops out pays for what it never sent.
            paid += 0 if name in away else sum(charge.compositions for charge in charges)
            full_price &= all(charge.event == event for charge in charges)
    holds = full_price and left > 0 and paid == left
    check = exact_check(Property.PAID, holds=holds, where="two runs with a restart between")
    return Payments(check=check, left=left, paid=min(paid, left))


def _members(
    records: Mapping[str, CanaryRecords],
    keys: Mapping[str, Ed25519PrivateKey],
    folder: Path,
    away: Sequence[str],
    *,
    restarted: bool,
) -> dict[str, Member]:
    """Sites with ledgers in files, which are opened again the second time, as after a restart."""
    place = Ledger.open if restarted else Ledger.create
    return {
        name: Member(
            records=held, away=name in away, ledger=place(folder / name, key=keys[name], data_set=name), key=keys[name]
        )
        for name, held in records.items()
    }


def _swapped(member: Member, parts: Parts, *, restarted: bool) -> Member:
    """Let a broken twin pay into another ledger than the one that is audited."""
    swap = parts.reopened if restarted else parts.ledger
    return member if member.ledger is None else replace(member, ledger=swap(member.ledger, member.key))


@contextmanager
def _closing(members: Mapping[str, Member]) -> Iterator[None]:
    """Close the members' ledgers at the end."""
    try:
        yield
    finally:
        for member in members.values():
            if member.ledger is not None:
                member.ledger.close()


def _charges(path: Path, key: Ed25519PrivateKey) -> list[Charge]:
    entries = read_entries(path, public_key=key.public_key())
    return [entry.record for entry in entries if isinstance(entry.record, Charge)]


def _ordinary_units(study: Study, schema: Schema, generator: np.random.Generator) -> list[CanaryRecords]:
    by_person = study.privacy.unit is Unit.PERSON
    lengths = np.resize(_RECORDS_EACH if by_person else (1,), _UNITS)
    return [
        plain_records(
            _random_codes(schema, int(length), generator), persons=_persons(schema, int(length)), schema=schema
        )
        for length in lengths
    ]


def _canary_units(study: Study, schema: Schema, canaries: Canaries) -> list[CanaryRecords]:
    """One unit of each kind, and of the widest spread one."""
    each = (2,) if study.privacy.unit is Unit.PERSON else (1,)
    chosen = [int(found[0]) for kind in CanaryKind if len(found := canaries.of(kind))]
    return [canary_records(np.array([number]), schema=schema, records_each=each) for number in chosen]


def _random_codes(schema: Schema, count: int, generator: np.random.Generator) -> NDArray[np.int32]:
    columns = [generator.integers(0, size, count) for size in schema.code_cardinalities]
    return np.stack(columns, axis=1).astype(np.int32)


def _persons(schema: Schema, count: int) -> NDArray[np.int64] | None:
    return None if schema.person is None else np.zeros(count, dtype=np.int64)


def _joined(units: Sequence[CanaryRecords], schema: Schema) -> CanaryRecords:
    """Put units one behind another, each a person of its own where there are persons."""
    lengths = [len(unit) for unit in units]
    persons = None if schema.person is None else np.repeat(np.arange(len(units), dtype=np.int64), lengths)
    return CanaryRecords(codes=np.concatenate([unit.codes for unit in units]), persons=persons, schema=schema)
