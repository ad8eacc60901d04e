"""The page of a ledger: one HTML file that loads nothing, for a privacy officer to read, keep or print.

It holds public numbers and what is in the ledger, and nothing that was computed from a record.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from cli.officer.account import Account, in_brief
from cli.officer.ledger_chart import spending_svg
from cli.officer.verification import Verification
from evaluation.page.skeleton import plain_page, section, table
from privacy import wording
from privacy.accounting import CrossCheck, check_tally, tally
from privacy.ceiling import Ceiling
from privacy.ledger import Charge, Entry, Seal, Settlement
from protocol.keys import public_hex
from protocol.terms import Relation

_MOST_ENTRIES = 2_000
_MOST_FAULTS = 5
_STYLE = """
:root{--ink:#1d2530;--soft:#4a5565;--line:#dfe4ea;--paper:#fff;--ground:#f4f6f8;--spent:#0072b2;--limit:#d55e00;
--warn:#fff6e0;--warn-line:#e0a100}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;font-family:system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif}
.wide{max-width:1060px;margin:0 auto;padding:0 20px}
header{background:var(--paper);border-bottom:1px solid var(--line);padding:28px 0 16px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px}
h2{font-size:1.25rem;margin:36px 0 4px}
h3{font-size:.95rem;color:var(--soft);margin:0}
p{margin:0 0 10px}
.lead,.intro{color:var(--soft);max-width:80ch;overflow-wrap:anywhere}
.warning{background:var(--warn);border:1px solid var(--warn-line);border-left-width:6px;border-radius:10px;
padding:12px 16px;margin:22px 0 0}
.panel,.card,figure{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:16px 18px}
.panel p:last-child{margin:0}
.cards{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));margin-top:22px}
.figure{font-size:2.1rem;font-weight:700;line-height:1.2;color:var(--spent);font-variant-numeric:tabular-nums}
.bar{height:10px;border-radius:5px;background:#e4e8ed;overflow:hidden;margin:6px 0 10px}
.bar span{display:block;height:100%;background:var(--spent)}
.card p{margin:0;font-size:.93rem}
figure{margin:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:6px}
.scroll{overflow-x:auto}
svg{display:block;width:100%;height:auto}
svg text{font-family:inherit}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums;background:var(--paper)}
th,td{text-align:left;padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft)}
tbody th{font-weight:600}
ul{padding-left:20px;margin:6px 0}
details{margin-top:16px}
summary{cursor:pointer;font-weight:600;padding:6px 0}
summary:focus-visible,.scroll:focus-visible{outline:3px solid var(--spent);outline-offset:2px}
.skip{position:absolute;left:-999px}
.skip:focus{left:8px;top:8px;background:var(--paper);padding:8px}
footer{color:var(--soft);font-size:.85rem;padding-top:28px;padding-bottom:36px}
@media(max-width:520px){h1{font-size:1.4rem}.figure{font-size:1.7rem}table{font-size:.82rem}th,td{padding:6px 5px}}
@media print{body{background:#fff}.card,figure,.panel{break-inside:avoid}}
"""


def ledger_page(account: Account, verification: Verification | None) -> str:
    """Return the page of a ledger.

    Args:
        account: What the ledger holds.
        verification: What was checked; None where nothing but what reading checks.

    Raises:
        AccountingError: If the accountants disagree.
    """
    now = datetime.now(UTC)
    title = f"Ledger of {account.opening.data_set} at {account.site}"
    lead = (
        f"Everything that was ever released about these records, as of {now:%Y-%m-%d %H:%M} UTC:"
        f" {len(account.entries)} entries signed with the site's key {public_hex(account.key)[:16]}…, the last one"
        f" {account.head[:16]}…, which commits to all before."
    )
    body = [
        *_warnings(account, verification),
        _cards(account),
        _chart(account, now=now),
        _studies(account),
        _statement(account),
        _checked(verification),
        _entries(account.entries),
    ]
    return plain_page(
        title=title,
        lead=lead,
        body=[part for part in body if part],
        footer="Nothing on it was computed from a record.",
        skip="Skip to the account",
        style=_STYLE,
    )


def _warnings(account: Account, verification: Verification | None) -> list[str]:
    told = list(account.notes)
    if verification is not None:
        told += [*verification.faults[:_MOST_FAULTS], *verification.remarks]
        if len(verification.faults) > _MOST_FAULTS:
            told.append(f"In all {len(verification.faults)} things do not add up.")
    if account.opening.simulated:
        told.append("This is the ledger of a simulation: it stands for nobody.")
    return [f'<aside class="warning" role="note">{escape(text)}</aside>' for text in told]


def _cards(account: Account) -> str:
    made = "".join(_card(account, ceiling) for ceiling in account.ceilings())
    return f'<div class="cards">{made}</div>' if made else ""


def _card(account: Account, ceiling: Ceiling) -> str:
    check = account.check(ceiling)
    share = min(100.0, 100.0 * check.pld / ceiling.epsilon)
    spent = wording.pair(check) if check.pld > 0.0 else "nothing"
    heading = f"Spent {wording.period(ceiling)}" if ceiling.days else "Spent in all"
    sentence = wording.budget(check, ceiling, account.unit or "record or person")
    return (
        f'<article class="card"><h3>{escape(heading)}</h3>'
        f'<div class="figure">{escape(spent)}</div>'
        f'<div class="bar" aria-hidden="true"><span style="width:{share:.1f}%"></span></div>'
        f"<p>{escape(sentence)}</p></article>"
    )


def _chart(account: Account, *, now: datetime) -> str:
    if not account.runs:
        return ""
    caption = (
        f"Epsilon of what counts as released, at delta {account.delta:g}, per {account.unit} under add/remove,"
        " by the accountant of record"
    )
    return section(
        "Over time",
        "What is spent stays spent. Under a ceiling over days, where the policy has one, it counts for so many days.",
        f"<figure><figcaption>{escape(caption)}</figcaption>{spending_svg(account, now=now)}</figure>",
    )


def _studies(account: Account) -> str:
    if not account.runs:
        return section("By study", "Nothing was ever charged: nothing was released.")
    rows = []
    for run in account.runs:
        rounds = f"{run.first_round} to {run.last_round} ({run.rounds})" if run.rounds else "none"
        left = f"; {run.unsealed} paid and not left yet" if run.unsealed else ""
        alone = check_tally(tally(run.events, Relation.ADD_REMOVE), delta=account.delta, relation=Relation.ADD_REMOVE)
        rows.append(
            (
                account.name(run.study),
                f"{run.study[:12]}… / {run.run[:12]}…",
                rounds + left,
                f"{_minute(run.since)} to {_minute(run.until)}",
                in_brief(run.events),
                _alone(alone),
            )
        )
    return section(
        "By study and run",
        f"Each line by itself; the last column is its own (epsilon, delta), per {account.unit} under add/remove."
        " Together they cost less than their sum: the account in all is above.",
        table(
            ("Study", "Hash / run", "Rounds", "When (UTC)", "What counts as released", "Alone"),
            rows,
            label="What was spent, by study and run",
        ),
    )


def _alone(check: CrossCheck) -> str:
    return wording.pair(check) if check.pld > 0.0 else "nothing"


def _statement(account: Account) -> str:
    statement = account.statement()
    if statement is None:
        return ""
    first, *rest = statement.sentences()
    lines = "".join(f"<p>{escape(line)}</p>" for line in rest)
    return section(
        "What holds",
        "In all, across studies.",
        f'<div class="panel"><p><strong>{escape(first)}</strong></p>{lines}</div>',
    )


def _checked(verification: Verification | None) -> str:
    if verification is None:
        intro = (
            "Reading the ledger checked its file, and every hash, link, signature and rule. To have the total worked"
            " out anew and the egress record compared: cloister site ledger --verify."
        )
        return section("What was checked", intro)
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in verification.passed)
    return section(
        "What was checked", "By cloister site ledger --verify.", f'<div class="panel"><ul>{lines}</ul></div>'
    )


def _entries(entries: Sequence[Entry]) -> str:
    shown = [entry for entry in entries if not isinstance(entry.record, Seal)][-_MOST_ENTRIES:]
    sealed = {entry.record.charge: entry.record.digest for entry in entries if isinstance(entry.record, Seal)}
    rows = [
        (str(entry.position), _minute(entry.time), _record(entry), sealed.get(entry.hash, "")[:12], entry.hash[:12])
        for entry in shown
    ]
    listed = table(
        ("Entry", "When (UTC)", "What", "Left as", "Hash"), rows, label=f"The last {len(rows)} entries, without seals"
    )
    return f"<details><summary>Every entry{_some(entries, shown)}</summary>{listed}</details>"


def _some(entries: Sequence[Entry], shown: Sequence[Entry]) -> str:
    whole = sum(not isinstance(entry.record, Seal) for entry in entries)
    return "" if whole == len(shown) else f" (the last {len(shown)} of {whole})"


def _record(entry: Entry) -> str:
    record = entry.record
    if isinstance(record, Charge):
        last = record.first_round + record.rounds - 1
        rounds = f"round {record.first_round}" if record.rounds == 1 else f"rounds {record.first_round} to {last}"
        return (
            f"{'reserved' if record.reserved else 'charged'} {rounds} of {record.study[:12]}…, run {record.run[:12]}…"
        )
    if isinstance(record, Settlement):
        return f"settled {record.reservation[:12]}…: {record.used_rounds} rounds used"
    return "opened"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
