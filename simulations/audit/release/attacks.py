"""Which attacks are made on a release, and on whom: targets, controls, and what the attacker knows anyway."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from privacy.audit.release import attribute_inference, linkability, nearest, outliers, singling_out
from privacy.audit.release.attempt import Attempt
from privacy.audit.release.domias import DOMIAS, domias
from privacy.audit.release.singling_out import Reach
from privacy.audit.release.tables import AttackTables, Codes, Columns
from privacy.audit.verdict import Measure
from protocol.errors import InputError, RecordsError
from protocol.terms import Unit
from records.column import Kind
from records.dataset import Records
from records.schema import Schema

FEWEST_PAIRS = 8
MOST_REFERENCE = 10_000  # records; more teach the attacker little and cost him time
_ON_A_LINE = (Kind.ORDINAL, Kind.INTEGER, Kind.CONTINUOUS, Kind.DATE)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ReleaseAuditTerms:
    """How a release is attacked.

    Attributes:
        targets: Most pairs of a member and a control that attacks by distance ask about.
        crowd: Most pairs among whom somebody is to be singled out, or to be an outlier.
        confidence: Confidence of every interval, and of all verdicts together.
        secrets: Columns to infer; None for those with the most to tell, `most_secrets` at the most.
        most_secrets: How many columns are inferred where none are named.
        linked: Two sets of columns to link; None for two random halves.
        predicates: Most sentences by which to single out.

    Raises:
        InputError: A number is out of range.
    """

    targets: int = 2_000
    crowd: int = 5_000
    confidence: float = 0.95
    secrets: tuple[str, ...] | None = None
    most_secrets: int = 12
    linked: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    predicates: int = singling_out.PREDICATES

    def __post_init__(self) -> None:
        for name, least in (("targets", FEWEST_PAIRS), ("crowd", FEWEST_PAIRS), ("most_secrets", 1), ("predicates", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}.", remedy=f"Use at least {least}.")
        if not 0.0 < self.confidence < 1.0:
            raise InputError(f"confidence is {self.confidence}, not in (0, 1).", remedy="Use 0.95, for example.")


@dataclass(frozen=True, kw_only=True)
class ReleaseAttack:
    """One run that makes one attempt or several.

    Attributes:
        names: What the attempts are called, in their order.
        measure: What they measure.
        run: Attacks the release in some tables, with a generator of its own.
    """

    names: tuple[str, ...]
    measure: Measure
    run: Callable[[AttackTables, np.random.Generator], tuple[Attempt, ...]]


def attack_tables(
    synthetic: Codes,
    *,
    real: Records,
    holdout: Records,
    unit: Unit,
    terms: ReleaseAuditTerms,
    generator: np.random.Generator,
) -> AttackTables:
    """Draw targets and reference; arguments as for `audit_release`.

    Returns:
        At most ``terms.crowd`` pairs in random order, and the rest of the holdout as reference.

    Raises:
        RecordsError: There are too few units, or codes do not fit the schema.
    """
    members, held = _shuffled_units(real, unit, generator), _shuffled_units(holdout, unit, generator)
    pairs = min(len(members), len(held) // 2, terms.crowd)
    if pairs < FEWEST_PAIRS:
        raise RecordsError(
            f"There are {len(members)} units in training and {len(held)} held out.",
            remedy=f"Give at least {FEWEST_PAIRS} and {2 * FEWEST_PAIRS}.",
        )
    return AttackTables(
        columns=columns_of(real.schema),
        synthetic=synthetic,
        members=real.codes[members[:pairs]],
        controls=holdout.codes[held[:pairs]],
        reference=holdout.codes[held[pairs:][:MOST_REFERENCE]],
    )


def columns_of(schema: Schema) -> Columns:
    """What distances need of a schema: which codes lie on a line.

    Raises:
        InputError: Its records have images.
    """
    if schema.image is not None:
        raise InputError(
            "The attacks on a release know records without images.",
            remedy="cloister evaluate RELEASE --real HELD_OUT --train TRAINED_ON says whether images are repeated.",
        )
    return Columns(
        names=schema.names,
        cardinalities=schema.cardinalities,
        ordered=tuple(column.values_cardinality if column.kind in _ON_A_LINE else 0 for column in schema.columns),
    )


def _shuffled_units(records: Records, unit: Unit, generator: np.random.Generator) -> Rows:
    """Position of one record of each unit, units and records at random."""
    order = generator.permutation(len(records))
    if unit is Unit.RECORD:
        return order
    first = np.unique(records.units[order], return_index=True)[1]
    return order[np.sort(first)]


def release_attacks(
    tables: AttackTables, terms: ReleaseAuditTerms, generator: np.random.Generator
) -> tuple[ReleaseAttack, ...]:
    """The closed table of attacks; what they must agree on across releases is drawn here."""
    columns, confidence = tables.columns, terms.confidence
    attacks = [
        ReleaseAttack(
            names=(DOMIAS,),
            measure=Measure.AUROC,
            run=lambda each, _: (domias(each.first(terms.targets), confidence=confidence),),
        ),
        ReleaseAttack(
            names=(nearest.NEAREST, nearest.CALIBRATED),
            measure=Measure.AUROC,
            run=lambda each, _: nearest.nearest_neighbour(each.first(terms.targets), confidence=confidence),
        ),
        ReleaseAttack(
            names=(outliers.OUTLIERS,),
            measure=Measure.HIT_RATE,
            run=lambda each, _: (outliers.outliers(each, confidence=confidence),),
        ),
        *(_singling_out(reach, terms) for reach in Reach),
    ]
    if columns.count > 1:
        attacks += [_linkability(columns, terms, generator), _attribute_inference(tables, terms)]
    return tuple(attacks)


def _singling_out(reach: Reach, terms: ReleaseAuditTerms) -> ReleaseAttack:
    return ReleaseAttack(
        names=(singling_out.attack_name(reach),),
        measure=Measure.HIT_RATE,
        run=lambda each, generator: (
            singling_out.singling_out(
                each, reach=reach, generator=generator, confidence=terms.confidence, most=terms.predicates
            ),
        ),
    )


def _linkability(columns: Columns, terms: ReleaseAuditTerms, generator: np.random.Generator) -> ReleaseAttack:
    if terms.linked is None:
        halves = linkability.random_halves(columns.count, generator=generator)
    else:
        first, second = (tuple(columns.index(name) for name in half) for half in terms.linked)
        halves = first, second
    return ReleaseAttack(
        names=(linkability.LINKABILITY,),
        measure=Measure.HIT_RATE,
        run=lambda each, generator: (
            linkability.linkability(
                each.first(terms.targets), halves=halves, generator=generator, confidence=terms.confidence
            ),
        ),
    )


def _attribute_inference(tables: AttackTables, terms: ReleaseAuditTerms) -> ReleaseAttack:
    if terms.secrets is None:
        secrets = _telling(tables, terms.most_secrets)
    else:
        secrets = tuple(tables.columns.index(name) for name in terms.secrets)
    return ReleaseAttack(
        names=tuple(attribute_inference.attack_name(tables.columns.names[secret]) for secret in secrets),
        measure=Measure.HIT_RATE,
        run=lambda each, _: attribute_inference.attribute_inference(
            each.first(terms.targets), secrets=secrets, confidence=terms.confidence
        ),
    )


def _telling(tables: AttackTables, most: int) -> tuple[int, ...]:
    """Columns of the largest entropy in the reference, in the order of the schema."""
    entropies = []
    for column in range(tables.columns.count):
        shares = np.unique(tables.reference[:, column], return_counts=True)[1] / len(tables.reference)
        entropies.append(float(-(shares * np.log(shares)).sum()))
    return tuple(sorted(np.argsort(-np.array(entropies), kind="stable")[:most].tolist()))
