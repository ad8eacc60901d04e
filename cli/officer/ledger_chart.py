"""The picture of a ledger: what was spent over time, against the ceilings."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from cli.officer.account import Account
from evaluation.page.inline import drawing, inline_svg
from privacy import wording
from privacy.accounting import check_tally, tally
from privacy.ceiling import Ceiling
from privacy.ledger import Charge
from privacy.ledger.chain import Chain
from privacy.ledger.window import moment

Point = tuple[datetime, float]
LIMIT = "#D55E00"
_MOST_STEPS, _MOST_RUNS = 8, 6
_LOOKS = (("-", "o", "#0072B2"), ("--", "s", "#3aa3dd"))


def spending(account: Account, ceilings: Sequence[Ceiling], *, now: datetime) -> dict[Ceiling, list[Point]]:
    """Work out what counted as spent under each ceiling: at the first and last charge of every run, and in between.

    Args:
        account: What the ledger holds; something must have been charged.
        ceilings: At whose delta, relation and days.
        now: The last moment.

    Returns:
        For each ceiling, from nothing at the ledger's opening on, pairs of time and epsilon of record: for a picture
        that says the rest.
    """
    return {ceiling: _curve(account, ceiling, now=now) for ceiling in ceilings}


def _curve(account: Account, ceiling: Ceiling, *, now: datetime) -> list[Point]:
    wanted = _wanted(account)
    passing = [moment(account.entries[index].time) + timedelta(days=ceiling.days) for index in sorted(wanted)
               if ceiling.days]  # fmt: skip
    chain, found = Chain(), [(moment(account.entries[0].time), 0.0)]

    def go_on(time: datetime) -> None:
        """Follow what passes out of the window until a moment."""
        while passing and passing[0] < time:
            passed = passing.pop(0)
            found.append((passed, _epsilon(chain, ceiling, now=passed)))

    for index, entry in enumerate(account.entries):
        go_on(moment(entry.time))
        chain.append(entry)
        if index in wanted:
            found.append((moment(entry.time), _epsilon(chain, ceiling, now=moment(entry.time))))
    end = max(now, found[-1][0])
    go_on(end)
    return [*found, (end, _epsilon(chain, ceiling, now=end))]


def _wanted(account: Account) -> set[int]:
    """Entries at which the total is worked out: it takes a good part of a second each time."""
    charges = [(index, entry.record) for index, entry in enumerate(account.entries) if isinstance(entry.record, Charge)]
    runs: dict[tuple[str, str], list[int]] = {}
    for index, charge in charges:
        runs.setdefault((charge.study, charge.run), []).append(index)
    ends = [index for found in list(runs.values())[-_MOST_RUNS:] for index in (found[0], found[-1])]
    steps = min(_MOST_STEPS, len(charges))
    return {*ends, *(charges[step * len(charges) // steps][0] for step in range(steps))}


def _epsilon(chain: Chain, ceiling: Ceiling, *, now: datetime) -> float:
    events = chain.events() if ceiling.days is None else chain.events_within(ceiling.days, now=now)
    return check_tally(tally(events, ceiling.relation), delta=ceiling.delta, relation=ceiling.relation).pld


def spending_svg(account: Account, *, now: datetime) -> str:
    """Draw what counted as spent over time, and the policy's ceilings, as inline SVG."""
    points = spending(account, account.measures(), now=now)
    last = {ceiling: found[-1][1] for ceiling, found in points.items()}
    told = "; ".join(f"{epsilon:.3f} {wording.period(ceiling)}" for ceiling, epsilon in last.items())
    with drawing():
        figure = Figure(figsize=(7.6, 3.1), layout="constrained")
        axes = figure.subplots()
        for (ceiling, found), look in zip(points.items(), _LOOKS, strict=False):
            _draw(axes, ceiling, found, look=look, limited=ceiling in account.ceilings())
        ticks = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]  # the dates have no types
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))  # type: ignore[no-untyped-call]  # the same
        axes.set_ylim(0.0, 1.08 * max([*last.values(), *(limit.epsilon for limit in account.ceilings())]))
        axes.set_ylabel("epsilon")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", frameon=False, ncols=4)
        return inline_svg(figure, alternative=f"Epsilon spent over time; now {told}.", prefix="spending")


def _draw(axes: Axes, ceiling: Ceiling, points: Sequence[Point], *, look: tuple[str, str, str], limited: bool) -> None:
    """Draw one curve and its ceiling; line style and mark tell the curves apart as well."""
    times, epsilons = zip(*points, strict=True)
    line, mark, colour = look
    spent = f"spent {wording.period(ceiling)}" if ceiling.days else "spent in all"
    axes.plot(times, epsilons, line, color=colour, marker=mark, markersize=3.5, label=spent)
    if limited:
        axes.axhline(
            ceiling.epsilon, linestyle=line, color=LIMIT, linewidth=1.2, label=f"ceiling {wording.period(ceiling)}"
        )
