"""The page of an audit: says all that it must, to a reader who is no statistician, and loads nothing."""

import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evaluation.audit_page import wording
from evaluation.audit_page.document import audit_page
from evaluation.audit_page.plots import Bound, Row, bounds_svg, intervals_svg, roc_svg
from privacy.audit.finding import Claim, Curve, Finding, Interval, Tier, Verdict
from privacy.audit.report import AuditReport, BrokenTwin
from protocol.errors import InputError
from protocol.terms import Relation

EVIL = "<img src=x onerror=alert(1)>&\"'"
CLAIM = Claim(epsilon=1.0, delta=1e-5, relation=Relation.ADD_REMOVE)
CURVE = Curve(false_positive_rate=(0.0, 0.001, 0.2, 1.0), true_positive_rate=(0.0, 0.1, 0.5, 1.0))
PICTURE = b"\x89PNG what a site sends"


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.05, high=value + 0.05, confidence=0.95)


def finding(**change: Any) -> Finding:
    values: dict[str, Any] = {
        "tier": Tier.MODEL,
        "attack": "likelihood",
        "subject": "a twin",
        "claim": CLAIM,
        "lower_bound": 0.25,
        "ceiling": 0.75,
        "measure": "AUROC",
        "attacked": interval(0.612),
        "baseline": interval(0.501),
        "control": interval(0.499),
        "canaries": 1234,
        "needed": None,
        "verdict": Verdict.CONSISTENT,
        "words": ("The attack shows an epsilon of at least 0.25.",),
        "curve": CURVE,
        "seconds": 2.0,
    }
    return Finding(**(values | change))


def report(**change: Any) -> AuditReport:
    values: dict[str, Any] = {
        "audit": Tier.MODEL,
        "subject": "stroke unit",
        "study": "1" * 64,
        "release": "9" * 64,
        "claim": "(1.000, 1e-05)-differential privacy per record.",
        "findings": (finding(), finding(attack="reconstruction", lower_bound=None, curve=None)),
        "broken_twins": (BrokenTwin(name="noise times 0.5", caught_by=("the lower bound",), seconds=1.0),),
        "notes": ("A note for the reader.",),
        "real_records": False,
        "code": "2" * 64,
        "versions": {"numpy": "2.9.9"},
        "created": "2026-01-31T12:00:00Z",
        "seconds": 12.5,
        "settings": {"canaries": 1234},
    }
    return AuditReport(**(values | change)).sign(Ed25519PrivateKey.from_private_bytes(b"a" * 32))


class Page(HTMLParser):
    """Collects what a page holds; raises where tags do not match."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def test_the_page_says_what_was_claimed_tried_shown_and_what_it_cannot_show() -> None:
    given = report()
    page = Page(audit_page(given))
    for heading in ("What was claimed", "What was tried", "What it showed", "What it cannot show", "Broken twins"):
        assert heading in page.text
    for words in (
        given.claim, "Consistent", "2 findings: 2 consistent", "noise times 0.5", "the lower bound", "A note for",
        *given.findings[0].words, *wording.TRIED[Tier.MODEL], *wording.LIMITS[Tier.MODEL], "1,234",
        given.study, given.code, given.auditor, given.release, "numpy 2.9.9", "2026-01-31 12:00:00", "canaries",
        "factor of at most 2.7", "the attack: 0.612 (0.562 to 0.662)", "best guess without the model: 0.501",
        "where it can only guess: 0.499", "likelihood: at least 0.25", "95 % confidence",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_page_has_a_picture_of_each_kind() -> None:
    page = Page(audit_page(report()))
    told = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(told) == 4  # all lower bounds; two pairs of intervals; one curve
    assert "likelihood: at least 0.25 of 1" in told[0]
    assert sum("on a log scale" in text for text in told) == 1
    assert sum("AUROC: the attack 0.612" in text for text in told) == 2


def test_pictures_do_not_share_ids_and_links_lead_somewhere() -> None:
    page = Page(audit_page(report()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {"#finding-1", "#finding-2", "#content"} <= set(links)
    assert {link[1:] for link in links} <= set(ids)


@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_page_loads_nothing_runs_nothing_and_calls_nothing_safe(tier: Tier, verdict: Verdict) -> None:
    bound = 1.5 if verdict is Verdict.VIOLATED else 0.5
    one = finding(tier=tier, verdict=verdict, lower_bound=bound)
    picture = PICTURE if tier is Tier.CHANNEL else None
    digest = None if picture is None else hashlib.sha256(picture).hexdigest()
    source = audit_page(report(audit=tier, findings=(one,), picture=digest), picture=picture)
    page = Page(source)
    assert wording.CONCLUSIONS[verdict][0] in page.text
    assert "safe" not in page.text.lower()
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.findall(r"(?:https?:)?//[a-z]", source.partition("base64,")[0])
    assert "default-src 'none'" in source


def test_every_text_is_escaped() -> None:
    one = finding(attack=EVIL, subject=EVIL, measure=EVIL, words=(EVIL,))
    source = audit_page(
        report(
            subject=EVIL, claim=EVIL, findings=(one,), demonstrations=(one,), notes=(EVIL,), settings={EVIL: EVIL},
            versions={EVIL: EVIL}, broken_twins=(BrokenTwin(name=EVIL, caught_by=(EVIL,), seconds=1.0),),
        )
    )  # fmt: skip
    assert not [attributes for tag, attributes in Page(source).tags if tag == "img"]
    assert EVIL in Page(source).text


def test_a_finding_without_numbers_is_told_without_pictures() -> None:
    nothing = finding(
        verdict=Verdict.NO_VERDICT, canaries=0, claim=None, lower_bound=None, ceiling=None, curve=None,
        words=("It raised.",),
    )  # fmt: skip
    page = Page(audit_page(report(findings=(nothing,))))
    assert not [tag for tag, _ in page.tags if tag == "svg"]
    assert "It raised." in page.text
    assert "No verdict" in page.text


def test_the_gravest_finding_comes_first() -> None:
    bad = finding(attack="the one that broke it", verdict=Verdict.VIOLATED, lower_bound=2.0)
    text = Page(audit_page(report(findings=(finding(), finding(), bad)))).text
    assert "3 findings: 1 violated, 2 consistent" in text
    after = text.partition("What it showed")[2]
    assert after.index("the one that broke it") < after.index("likelihood")


def test_a_missed_twin_stands_out() -> None:
    twins = (*report().broken_twins, BrokenTwin(name="clip missing", caught_by=(), seconds=1.0))
    text = Page(audit_page(report(broken_twins=twins))).text
    assert "No verdict" in text
    assert "Broken on purpose, and caught: 1 of 2 twins" in text
    assert "not caught" in text
    assert "not caught" not in Page(audit_page(report())).text


def test_a_twin_that_only_more_canaries_would_show_leaves_the_verdict_alone() -> None:
    twins = (*report().broken_twins, BrokenTwin(name="no noise", caught_by=(), seconds=1.0, required=False))
    found = report(broken_twins=twins)
    text = Page(audit_page(found)).text
    assert (found.verdict, found.missed) == (Verdict.CONSISTENT, ())
    assert "Broken on purpose, and caught: 1 of 2 twins" in text
    assert "not caught" in text


@pytest.mark.parametrize("tier", list(Tier))
def test_the_page_says_what_was_made_on_broken_twins(tier: Tier) -> None:
    text = Page(audit_page(report(audit=tier, findings=(finding(tier=tier),)))).text
    assert wording.BROKEN_TWINS[tier] in text
    # Only the mechanism's twins are audited like the study, each with a defect of its own.
    assert ("audited like the study" in text) is (tier is Tier.MECHANISM)
    assert ("attack of this very audit" in text or "attacks of this very audit" in text) is (tier is not Tier.MECHANISM)


@pytest.mark.parametrize("tier", [Tier.MODEL, Tier.RELEASE])
def test_the_page_says_that_a_wrong_file_is_not_noticed(tier: Tier) -> None:
    text = Page(audit_page(report(audit=tier, findings=(finding(tier=tier),)))).text
    assert "cannot notice a wrong file" in text


def test_a_violation_is_not_to_be_run_again_until_it_is_gone() -> None:
    text = Page(audit_page(report(findings=(finding(verdict=Verdict.VIOLATED, lower_bound=2.0),)))).text
    assert "rule out chance" not in text
    assert "Running the same audit again does not settle it" in text
    assert "keep and show both reports" in text


def test_halves_of_the_held_out_are_a_calibration_and_no_control() -> None:
    weights = finding(subject="release of stroke unit")
    scored = finding(tier=Tier.RELEASE)
    hit = finding(tier=Tier.RELEASE, measure="hit rate")
    assert {wording.names(each).control for each in (weights, scored)} == {"calibration: held-out halves"}
    assert wording.names(weights).baseline == wording.names(hit).baseline == "best guess without the release"
    assert wording.names(hit).control == "on records that were held out"
    assert wording.names(finding()).control == "where it can only guess"


def test_real_records_come_with_a_warning() -> None:
    assert "Keep this report where the real records are" in Page(audit_page(report(real_records=True))).text
    assert "Keep this report where the real records are" not in Page(audit_page(report())).text


def test_only_the_reports_own_picture_is_shown() -> None:
    shown = finding(tier=Tier.CHANNEL, subject="no protection", claim=None, lower_bound=None, ceiling=None)
    own = report(audit=Tier.CHANNEL, demonstrations=(shown,), picture=hashlib.sha256(PICTURE).hexdigest())
    source = audit_page(own, picture=PICTURE)
    assert source.count("data:image/png;base64,") == 1
    assert "What the attack can do" in source
    assert "no protection" in Page(source).text
    assert "data:image" not in audit_page(own)
    with pytest.raises(InputError, match="not the one of the report"):
        audit_page(own, picture=PICTURE + b"x")
    with pytest.raises(InputError, match="not the one of the report"):
        audit_page(replace(own, picture=None), picture=PICTURE)


def test_the_page_of_a_report_is_the_same_every_time() -> None:
    assert audit_page(report()) == audit_page(report())


def test_pictures_bear_odd_numbers() -> None:
    point = Interval(value=0.0, low=0.0, high=0.0, confidence=0.95)
    odd = [Bound(name="x" * 200, lower_bound=40.0, ceiling=None, claim=1.0),
           Bound(name="y", lower_bound=0.0, ceiling=0.0, claim=0.0)]  # fmt: skip
    for picture in (
        bounds_svg(odd, alternative="a", prefix="a"),
        bounds_svg(odd[1:], alternative="a", prefix="a"),
        intervals_svg([Row(name="x", interval=point, is_attack=True)], measure="m", alternative="a", prefix="a"),
        roc_svg(Curve(false_positive_rate=(0.0, 1.0), true_positive_rate=(0.0, 1.0)), alternative="a", prefix="a"),
    ):
        assert picture.startswith("<svg ")
        assert "nan" not in picture.lower()
    assert "→" in bounds_svg(odd, alternative="a", prefix="a")
