"""The sections of the page of an audit."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

from evaluation.audit_page import wording
from evaluation.audit_page.plots import Bound, Row, bounds_svg, intervals_svg, roc_svg
from privacy.audit.finding import Finding, Verdict
from privacy.audit.report import AuditReport, BrokenTwin

_GRAVEST_FIRST = (Verdict.VIOLATED, Verdict.NO_VERDICT, Verdict.UNDERPOWERED, Verdict.CONSISTENT)
_REAL_RECORDS = (
    "<strong>Keep this report where the real records are.</strong> Numbers or pictures in it were computed from real "
    "records, without noise: it is itself a look at them, and no privacy statement covers it."
)


def verdict_section(report: AuditReport) -> str:
    """The conclusion, and how many findings of which kind it rests on."""
    word, meaning = wording.CONCLUSIONS[report.verdict]
    counts = [(verdict, sum(each.verdict is verdict for each in report.findings)) for verdict in _GRAVEST_FIRST]
    told = ", ".join(f"{count} {verdict.value}" for verdict, count in counts if count)
    what = "finding" if len(report.findings) == 1 else "findings"
    twins = ""
    if report.broken_twins:
        caught = sum(bool(twin.caught_by) for twin in report.broken_twins)
        twins = f" Broken on purpose, and caught: {caught} of {len(report.broken_twins)} twins."
    warning = f'<aside class="warning" role="note">{_REAL_RECORDS}</aside>' if report.real_records else ""
    return (
        f'<section class="verdict {wording.css(report.verdict)}" aria-label="Verdict"><p class="word">{word}</p>'
        f"<p>{escape(meaning)}</p><p>{len(report.findings)} {what}: {escape(told)}.{twins}</p></section>{warning}"
    )


def claim_section(report: AuditReport) -> str:
    """What was claimed."""
    claims = list(dict.fromkeys(finding.claim for finding in report.findings if finding.claim is not None))
    told = [wording.tested(report.audit, claims), wording.odds(claims[0]), wording.WORST_CASE] if claims else []
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in told)
    return (
        f'<section><h2>What was claimed</h2><div class="panel"><p><strong>{escape(report.claim)}</strong></p>'
        f"{paragraphs}</div></section>"
    )


def tried_section(report: AuditReport) -> str:
    """What was tried, and the table of all findings."""
    told = "".join(f'<p class="intro">{escape(text)}</p>' for text in wording.TRIED[report.audit])
    rows = "".join(
        f'<tr><th scope="row"><a href="#{_anchor(place)}">{escape(finding.attack)}</a></th>'
        f'<td>{escape(finding.subject)}</td><td class="number roomy">{finding.canaries:,}</td>'
        f"<td>{_chip(finding.verdict)}</td></tr>"
        for place, finding in enumerate(_ordered(report.findings))
    )
    head = '<tr><th>Attack</th><th>On</th><th class="number roomy">Canaries or records</th><th>Verdict</th></tr>'
    return f"<section><h2>What was tried</h2>{told}{_table(head, rows, 'All findings')}</section>"


def showed_section(report: AuditReport, picture: bytes | None) -> str:
    """What it showed: the picture if there is one, lower bounds against the claim, then every finding by itself."""
    findings = _ordered(report.findings)
    panels = "".join(_panel(finding, place) for place, finding in enumerate(findings))
    return f"<section><h2>What it showed</h2>{_image(picture)}{_overview(findings)}{panels}</section>"


def demonstration_section(report: AuditReport) -> str:
    """What the attack does where nothing is claimed."""
    if not report.demonstrations:
        return ""
    panels = "".join(_demonstration(finding, place) for place, finding in enumerate(report.demonstrations))
    intro = (
        "The same attack where no noise protects the records. No study works like this, and nothing is claimed of it."
    )
    return f'<section><h2>What the attack can do</h2><p class="intro">{intro}</p>{panels}</section>'


def limits_section(report: AuditReport) -> str:
    """What the audit cannot show."""
    listed = "".join(f"<li>{escape(text)}</li>" for text in wording.LIMITS[report.audit])
    return f'<section><h2>What it cannot show</h2><div class="panel"><ul>{listed}</ul></div></section>'


def twins_section(report: AuditReport) -> str:
    """Which broken twin was caught by which test."""
    if not report.broken_twins:
        return ""
    rows = "".join(_twin_row(twin) for twin in report.broken_twins)
    intro = wording.BROKEN_TWINS[report.audit]
    head = "<tr><th>What was broken</th><th>Caught by</th></tr>"
    return (
        f'<section><h2>Broken twins</h2><p class="intro">{escape(intro)}</p>{_table(head, rows, "Broken twins")}'
        "</section>"
    )


def notes_section(report: AuditReport) -> str:
    """What the reader must know besides, and how to read the pictures."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    told = f'<h2>Notes</h2><div class="panel"><ul>{notes}</ul></div>' if notes else ""
    meanings = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(meaning)}</li>" for name, meaning in wording.READING
    )
    return f"<section>{told}<details><summary>How to read this page</summary><ul>{meanings}</ul></details></section>"


def origin_section(report: AuditReport) -> str:
    """Who made the report, from what, and how to check it."""
    facts = [("Made (UTC)", report.created.replace("T", " ").removesuffix("Z"), False)]
    facts.append(("Took", _duration(report.seconds), False))
    facts += [(name.replace("_", " "), str(value), False) for name, value in sorted(report.settings.items())]
    facts.append(("Study", report.study, True))
    facts += [("Release (SHA-256 of its checksums)", report.release, True)] if report.release else []
    facts += [("Code that was audited", report.code, True), ("Auditor's key", report.auditor or "not signed", True)]
    versions = ", ".join(f"{name} {number}" for name, number in sorted(report.versions.items()))
    facts.append(("Versions", versions, False))
    listed = "".join(
        f"<div{_long(is_hash)}><dt>{escape(name)}</dt><dd{_code(is_hash)}>{escape(value)}</dd></div>"
        for name, value, is_hash in facts
    )
    check = (
        '<p class="after">This page can be changed by anybody. What is signed is the report.json that goes with it: '
        '<span class="code">cloister audit check report.json --html page.html</span> checks the signature and draws '
        "this page anew. Ask the auditor for the key, by another way.</p>"
    )
    panel = f'<div class="panel"><dl class="facts">{listed}</dl></div>'
    return f"<section><h2>Where it comes from</h2>{panel}{check}</section>"


def _image(picture: bytes | None) -> str:
    if picture is None:
        return ""
    data, told = base64.b64encode(picture).decode(), "Records, and what the attacker made of them in four settings"
    return (
        f'<figure><figcaption>{told}</figcaption><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{told}"><img alt="{told}" src="data:image/png;base64,{data}"></div></figure>'
    )


def _overview(findings: Sequence[Finding]) -> str:
    bounds = [
        Bound(
            name=_label(finding, findings),
            lower_bound=finding.lower_bound,
            ceiling=finding.ceiling,
            claim=finding.claim.epsilon,
        )
        for finding in findings
        if finding.lower_bound is not None and finding.claim is not None
    ]
    if not bounds:
        return ""
    told = "; ".join(f"{bound.name}: at least {bound.lower_bound:.3g} of {bound.claim:.3g}" for bound in bounds)
    picture = bounds_svg(bounds, alternative=f"Lower bounds on epsilon against the claim. {told}.", prefix="bounds")
    return (
        '<figure class="narrow"><figcaption>Lower bound against the claim</figcaption>'
        '<p class="intro">Pale blue up to the line: what is claimed. Orange: what the attack proves is spent at the '
        "least. Triangle: what a perfect attacker would typically prove with as many canaries, were the claim just "
        f"kept.</p>{picture}</figure>"
    )


def _label(finding: Finding, among: Sequence[Finding]) -> str:
    """The attack, and what it was on where that differs."""
    if len({each.subject for each in among if each.lower_bound is not None}) < 2:
        return finding.attack
    alike = len({each.attack for each in among if each.lower_bound is not None}) < 2
    return finding.subject if alike else f"{finding.attack}; {finding.subject}"


def _panel(finding: Finding, place: int) -> str:
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in finding.words)
    return (
        f'<article class="panel finding" id="{_anchor(place)}"><div class="head"><h3>{escape(finding.attack)}</h3>'
        f'{_chip(finding.verdict)}</div><p class="about">On {escape(finding.subject)}, in {_duration(finding.seconds)}'
        f'</p><div class="words">{words}</div>{_pictures(finding, f"f{place}")}</article>'
    )


def _demonstration(finding: Finding, place: int) -> str:
    """As a finding, but without a chip: where nothing is claimed, nothing can be violated."""
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in finding.words)
    return (
        f'<article class="panel finding"><div class="head"><h3>{escape(finding.attack)}: {escape(finding.subject)}</h3>'
        f'</div><div class="words">{words}</div>{_pictures(finding, f"d{place}")}</article>'
    )


def _pictures(finding: Finding, prefix: str) -> str:
    if finding.canaries == 0:
        return ""
    parts = [f'<div class="picture"><h4>{_heading(finding)}</h4>{_intervals(finding, prefix)}</div>']
    if finding.curve is not None:
        what = f"Receiver operating characteristic of {finding.attack} on {finding.subject}, on a log scale."
        picture = roc_svg(finding.curve, alternative=what, prefix=f"{prefix}r")
        parts.append(f'<div class="picture"><h4>ROC on a log scale</h4>{picture}</div>')
    return f'<div class="pictures">{"".join(parts)}</div>'


def _heading(finding: Finding) -> str:
    compared = finding.baseline is not None or finding.control is not None
    what = "Attack against guess and control" if compared else "What was measured"
    return f"{what} ({100 * finding.attacked.confidence:.3g} % confidence)"


def _intervals(finding: Finding, prefix: str) -> str:
    called = wording.names(finding)
    given = (
        (called.attacked, finding.attacked),
        (called.baseline, finding.baseline),
        (called.control, finding.control),
    )
    rows = [
        Row(name=name, interval=interval, is_attack=number == 0)
        for number, (name, interval) in enumerate(given)
        if interval is not None
    ]
    told = "; ".join(f"{row.name} {row.interval.value:.3g}" for row in rows)
    return intervals_svg(rows, measure=finding.measure, alternative=f"{finding.measure}: {told}.", prefix=f"{prefix}i")


def _twin_row(twin: BrokenTwin) -> str:
    caught = "; ".join(escape(test) for test in twin.caught_by)
    verdict = Verdict.NO_VERDICT if twin.required else Verdict.UNDERPOWERED
    missed = f'<span class="chip {wording.css(verdict)}">not caught</span>'
    return f'<tr><th scope="row">{escape(twin.name)}</th><td>{caught or missed}</td></tr>'


def _chip(verdict: Verdict) -> str:
    return f'<span class="chip {wording.css(verdict)}">{verdict.value}</span>'


def _table(head: str, rows: str, label: str) -> str:
    columns = head.replace("<th", '<th scope="col"')
    return (
        f'<div class="framed"><div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead>{columns}</thead><tbody>{rows}</tbody></table></div></div>"
    )


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Gravest first, else in the order of the report."""
    return sorted(findings, key=lambda finding: _GRAVEST_FIRST.index(finding.verdict))


def _anchor(place: int) -> str:
    return f"finding-{place + 1}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _long(is_hash: bool) -> str:  # noqa: FBT001 - a column of a table
    return ' class="long"' if is_hash else ""


def _code(is_hash: bool) -> str:  # noqa: FBT001 - a column of a table
    return ' class="code"' if is_hash else ""
