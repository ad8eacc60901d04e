"""Closed vocabularies that both sides of a federation share."""

import re
from enum import StrEnum

SITE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a site may be called: lower-case letters, digits and hyphens, as in a host name."""


class Unit(StrEnum):
    """Whom or what one privacy guarantee covers."""

    RECORD = "record"
    PERSON = "person"


class Relation(StrEnum):
    """Which two data sets count as neighbours."""

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"


class Sampler(StrEnum):
    """How a step chooses its units. Poisson: every unit by an independent coin of the public rate."""

    POISSON = "poisson"
    ALL = "all"


class Trust(StrEnum):
    """Where the noise is placed: wholly at each site, or in shares under the secure sum."""

    NONE = "none"
    SUM = "sum"


class ContributionKind(StrEnum):
    """What a site's bounded vector is a sum of."""

    GRADIENTS = "gradients"
    UPDATES = "updates"
    STATISTICS = "statistics"


class NoiseOrigin(StrEnum):
    """Where randomness comes from. ``DETERMINISTIC`` exists for tests and makes everything not private."""

    SYSTEM = "system"
    DETERMINISTIC = "deterministic"
