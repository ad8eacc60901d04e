"""Which test is there for which broken twin: that something else failed by chance, or by artefact, is no catch."""

from collections.abc import Mapping, Sequence

from privacy.audit.mechanism.residuals import Property
from simulations.audit.mechanism.assessment import LOWER_BOUND

CAUGHT_BY: Mapping[str, tuple[str, ...]] = {
    "noise times 0.5": (LOWER_BOUND, Property.SCALE),
    "noise missing on some tensors": (Property.SCALE,),
    "clip missing": (Property.BOUND,),
    "clip per layer instead of per unit": (Property.BOUND,),
    "clip after averaging": (Property.CANARY, Property.ALONE),
    "wrong sampling rate": (Property.RATE,),
    "shuffle instead of Poisson": (Property.SIZES, Property.TURNS),
    "the same noise in every round": (Property.FRESH,),
    "noise from a seed": (Property.FRESH,),
    "skipped empty batches": (Property.SCALE,),
    "sampling rate that depends on the number of records": (Property.RATE,),
    "layers that mix records": (Property.ALONE,),
    "uncharged restart": (Property.PAID,),
    "contributions charged to nobody": (Property.PAID,),
    "no noise at all": (LOWER_BOUND, Property.SCALE),
    "more noise than was said": (Property.SCALE,),
    "clip per record instead of per person": (Property.BOUND,),
    "shares that forget drop-outs and colluders": (Property.SCALE,),
    "statistics charged to nobody": (Property.PAID,),
    "statistics without a clip": (Property.BOUND,),
    "bound of statistics too small": (Property.BOUND,),
}
"""By broken twin: the tests that are about its defect, one of which must fail.

There are two where one of them sees less the more noise a study has: a lower bound, or what canaries do to a noisy sum.
"""


def convincing(alarms: Sequence[str], caught_by: Sequence[str]) -> bool:
    """Whether a test that is about the defect is among those that failed.

    Args:
        alarms: The tests that failed, in words.
        caught_by: The tests that are about it, or how their names begin; none where any will do.
    """
    return bool(alarms) and (not caught_by or any(alarm.startswith(name) for alarm in alarms for name in caught_by))


def unconvinced(alarms: Sequence[str], caught_by: Sequence[str]) -> str:
    """What is to be said of a broken twin that only other tests caught; nothing where no test did."""
    if not alarms:
        return ""
    return f"was not caught by the test that is there for it ({' or '.join(caught_by)}), only by: {', '.join(alarms)}"
