import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest

from evaluation.evaluate import evaluate_tables
from evaluation.page.cards import Card, Mark
from evaluation.plots import Marginal, heat_map_svg, marginal_svg

VOID = {"meta", "link", "br", "hr", "img", "input"}
CARDS = (
    "Predicting the target (AUROC)",
    "Naming the right answer (accuracy)",
    "Single columns (1-way TVD)",
    "Pairs of columns (2-way TVD)",
    "Triples of columns (3-way TVD)",
    "Relationships (association difference)",
    "Missing values (difference of shares)",
    "Telling them apart (detection AUC)",
)
STATEMENT = {"epsilon": 1.5, "unit": "record", "accountant": "<img src=x onerror=alert(1)>"}


class Page(HTMLParser):
    """Collects what a page holds; raises where tags do not match."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise ValueError(f"</{tag}> closes nothing")

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def classed(self, word):
        return [attributes for _, attributes in self.tags if word in (attributes.get("class") or "").split()]


@pytest.fixture
def evaluation(make_table):
    return evaluate_tables(
        make_table(150, 0), make_table(100, 1), make_table(150, 2), generator=np.random.default_rng(0)
    )


def test_the_twin_of_the_parser_rejects_a_broken_page():
    with pytest.raises(ValueError, match="closes nothing"):
        Page("<p><b>x</p></b>")


def test_page_is_well_formed_and_holds_every_part(evaluation):
    page = Page(evaluation.to_html())
    assert page.open == []
    assert len(page.classed("card")) == len(CARDS)
    assert set(CARDS) <= set(page.texts)
    for part in (
        "Column by column",
        "Pairs of columns",
        "Relationships",
        "Predicting ill",
        "Missing values",
        "Notes",
    ):
        assert part in page.texts
    # Five histograms, four heat maps, two ROC curves, missing values.
    assert len(page.named("svg")) == 12


def test_page_loads_nothing_and_runs_nothing(evaluation):
    source = evaluation.to_html(statement=STATEMENT)
    page = Page(source)
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), tag
    assert set(re.findall(r"url\((.)", source)) <= {"#"}
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_picture_has_words_and_ids_of_its_own(evaluation):
    page = Page(evaluation.to_html())
    words = [attributes["aria-label"] for attributes in page.named("svg")]
    assert all(len(text) > 20 for text in words)
    assert len(set(words)) == len(words)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert page.named("html")[0]["lang"] == "en"


def test_warning_is_on_the_page_and_in_the_json(evaluation):
    text = " ".join(Page(evaluation.to_html(statement=STATEMENT)).texts)
    assert "Keep this report where the real records are." in text
    assert "charged to the site's ledger" in text
    assert "charged to the site's ledger" in json.loads(evaluation.to_json())["warning"]


def test_statement_is_shown_or_its_absence_is(evaluation):
    given = Page(evaluation.to_html(statement=STATEMENT, statement_lines=["Against anybody & all."]))
    assert "1.5" in given.texts
    assert "Against anybody & all." in given.texts
    assert STATEMENT["accountant"] in given.texts
    absent = " ".join(Page(evaluation.to_html()).texts)
    assert "No privacy statement was given" in absent
    assert "No privacy statement was given" not in " ".join(given.texts)


def test_labels_are_escaped(evaluation):
    source = evaluation.to_html(statement=STATEMENT)
    assert "<b>east" not in source
    assert "&lt;b&gt;east&lt;/b&gt;" in source
    assert "<img" not in source


def test_json_holds_what_was_found(evaluation):
    found = json.loads(evaluation.to_json(statement=STATEMENT), parse_constant=pytest.fail)
    assert found["version"] == 1
    assert found["statement"] == STATEMENT
    assert found["fidelity"]["two_way"] == evaluation.fidelity.two_way
    assert found["utility"][0]["synthetic"]["auroc"] == evaluation.utilities[0].synthetic.auroc
    assert found["detection"]["auroc"] == evaluation.detection.auroc
    assert [column["name"] for column in found["columns"]] == list(evaluation.names)
    assert sum(found["columns"][2]["real"]) == pytest.approx(1.0)


def marginal(**changes):
    description = {
        "name": "a$b$ </svg><script>",
        "is_ordered": False,
        "has_missing": False,
        "labels": ("x$y$", "<script>alert(1)</script>", "--> 漢字"),
        "real": np.array([0.2, 0.3, 0.5]),
        "synthetic": np.array([0.3, 0.3, 0.4]),
        "distance": 0.1,
    }
    return Marginal(**(description | changes))


def test_hostile_and_foreign_labels_stay_text():
    picture = Page(marginal_svg(marginal(), prefix="p"))
    assert picture.open == []
    assert not picture.named("script")
    texts = [text.strip() for text in picture.texts]
    assert "x$y$" in texts
    assert "--> 漢字" in texts
    assert picture.named("svg")[0]["aria-label"].startswith("Histogram of a$b$ </svg><script>, real")


def test_many_unordered_codes_are_gathered_and_none_is_lost():
    real = np.full(30, 1 / 30)
    names = tuple(f"c{code}" for code in range(30))
    picture = Page(marginal_svg(marginal(labels=names, real=real, synthetic=real), prefix="p"))
    assert "21 others" in [text.strip() for text in picture.texts]


def test_missing_code_of_an_ordered_column_stands_apart():
    shares = np.full(30, 1 / 30)
    names = (*(str(code) for code in range(29)), "(missing)")
    ordered = marginal(labels=names, real=shares, synthetic=shares, is_ordered=True, has_missing=True)
    texts = [text.strip() for text in Page(marginal_svg(ordered, prefix="p")).texts]
    assert "missing" in texts
    assert "0" in texts


def test_drawing_leaves_matplotlibs_settings_alone():
    before = dict(mpl.rcParams)
    heat_map_svg(["a", "b"], np.zeros((2, 2)), alternative="x", prefix="p", is_signed=False)
    assert dict(mpl.rcParams) == before


def test_wide_tables_get_small_labels_and_no_written_cells():
    names = [f"column {index}" for index in range(130)]
    picture = heat_map_svg(names, np.eye(130), alternative="x", prefix="p", is_signed=True)
    assert len(picture) < 200_000
    assert picture.count("<text") < 200


def test_card_places_its_marks_on_the_scale():
    card = Card(
        heading="h & h",
        value=0.75,
        sentence="s",
        aim="a",
        low=0.5,
        high=1.0,
        marks=(
            Mark(kind="other", name="toss", value=0.2),
            Mark(kind="synthetic", name="synthetic", value=0.75),
        ),
    )
    assert "left:50.0%" in card.to_html()
    assert "left:0.0%" in card.to_html()
    assert "h &amp; h" in card.to_html()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_chromium_renders_the_page(evaluation, tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not on PATH")
    (tmp_path / "report.html").write_text(evaluation.to_html(statement=STATEMENT), encoding="utf-8")
    picture = tmp_path / "report.png"
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu")
    subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{part}" for part in quiet),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            f"--window-size={width},1600",
            (tmp_path / "report.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = mpl.image.imread(picture)
    assert pixels.shape[:2] == (1600, width)
    colours = {tuple(colour) for colour in np.round(255 * pixels[::4, ::4, :3]).astype(int).reshape(-1, 3).tolist()}
    # Ground, warning and the headline numbers: the style was applied.
    assert {(244, 246, 248), (255, 246, 224), (163, 71, 0)} <= colours
