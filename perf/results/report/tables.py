"""Tables of results as Markdown."""

import math
from collections.abc import Iterable, Sequence

from perf.results.report.published import QUOTED
from perf.results.report.summary import Cell, Estimate
from perf.results.setting import SYSTEMS, Among, Peer, Setting, Yardstick
from protocol.terms import Trust

MEASURES = {
    "auroc": "AUROC, trees",
    "auroc_logistic": "AUROC, logistic",
    "accuracy": "accuracy",
    "tvd1": "1-way",
    "tvd2": "2-way",
    "feature_distance": "features",
}
_YARDSTICKS = {
    Yardstick.REAL: "real rows",
    Yardstick.INDEPENDENT: "independent columns",
    Yardstick.PERMUTED: "permuted labels",
}


def results_table(cells: Sequence[Cell]) -> str:
    """Return the table of one data set.

    Args:
        cells: Its cells.

    Returns:
        Markdown. A number is ``mean ± half width`` of a 95 % interval over the seeds; a column that no cell has is
        left out.
    """
    measures = [name for name in MEASURES if any(cell.estimate(name) is not None for cell in cells)]
    head = ["what", "epsilon", "sites", *(MEASURES[name] for name in measures), "seconds", "MB", "seeds"]
    return markdown(head, [_row(cell, measures) for cell in sorted(cells, key=_order)])


def site_table(cells: Sequence[Cell]) -> str:
    """Return the table of one data set by natural site; empty where it has none.

    Args:
        cells: Its cells.

    Returns:
        Markdown: AUROC of trees on the test rows of each site.
    """
    sites = sorted({name for cell in cells for run in cell.runs for name in run.measures if name.startswith("auroc@")})
    if not sites:
        return ""
    rows = [
        [words(cell.setting), epsilon(cell), *(_number(cell.estimate(site)) for site in sites)]
        for cell in sorted(cells, key=_order)
    ]
    return markdown(["what", "epsilon", *(site.removeprefix("auroc@") for site in sites)], rows)


def quoted_table(data_set: str) -> str:
    """Return the figures of others for one data set as Markdown; empty where there are none."""
    rows = [[each.system, each.promise, each.figure, each.source] for each in QUOTED if each.data_set == data_set]
    return markdown(["system", "promise", "figure", "whose, and how"], rows) if rows else ""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    >>> print(markdown(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return text.replace("| --- ", "|---").replace("|--- |", "|---|")


def words(setting: Setting) -> str:
    """Say what a cell is.

    >>> words(Setting(data_set="adult", system="vae", epsilon=1.0, sites=10, trust=Trust.SUM))
    '`vae`, shared noise'
    """
    if setting.system in tuple(Yardstick):
        return _YARDSTICKS[Yardstick(setting.system)]
    if setting.system in tuple(Peer):
        return f"{setting.system.upper()}, central"
    if setting.sites == 1:
        return f"`{setting.system}`, pooled" + ("" if setting.epsilon else ", without privacy")
    if setting.among is Among.ALONE:
        how = "each site alone, mean"
    elif not setting.epsilon:
        how = "federated, without privacy"
    else:
        how = "shared noise" if setting.trust is Trust.SUM else "local noise"
    skew = "" if setting.partition in ("iid", "natural") else f", {setting.partition}"
    bound = f" ({setting.dropouts} out, {setting.colluders} collude)" if setting.dropouts or setting.colluders else ""
    return f"`{setting.system}`, {how}{bound}{skew}"


def epsilon(cell: Cell) -> str:
    """Say the epsilon of a cell; a dash where nothing was promised."""
    promise = cell.promise
    return f"{cell.setting.epsilon:g}" if promise is not None and promise.private else "-"


def _order(cell: Cell) -> tuple[int, float, int, bool, bool, str]:
    """Yardsticks first, then by system, epsilon, and from pooled to alone."""
    setting = cell.setting
    return (
        SYSTEMS.index(setting.system),
        setting.epsilon or math.inf,
        setting.sites,
        setting.among is Among.ALONE,
        setting.trust is Trust.NONE,
        setting.partition,
    )


def _row(cell: Cell, measures: Sequence[str]) -> list[str]:
    trained = cell.setting.system not in tuple(Yardstick)
    return [
        words(cell.setting),
        epsilon(cell),
        str(cell.setting.sites) if trained else "-",
        *(_number(cell.estimate(name)) for name in measures),
        f"{cell.seconds:.0f}" if trained else "-",
        f"{cell.peak_mb:.0f}" if trained else "-",
        str(len(cell.runs)),
    ]


def _number(estimate: Estimate | None) -> str:
    """Write an estimate in thousandths."""
    if estimate is None:
        return "-"
    mean = f"{estimate.mean:.3f}".removeprefix("0")
    return mean if math.isnan(estimate.half_width) else f"{mean} ± {estimate.half_width:.3f}".replace("± 0", "± ")
