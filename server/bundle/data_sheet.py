"""The data sheet of the synthetic records: what they are made of, how they come about, what they must not be used for.

After Gebru et al. 2021, "Datasheets for datasets", asked of rows that are drawn and not collected.
"""

from collections.abc import Sequence

from evaluation.page.skeleton import plain_page, section, sentences, words_table
from records.column import Column, Kind
from records.constraints import Broken, Constraint
from server.bundle.model_card import limits
from server.bundle.subject import Subject

_MOST_CATEGORIES = 40

_RECORDS_THAT_BREAK = {
    Broken.REFUSE: "the site takes no part until it has none",
    Broken.DROP: "left out of training",
    Broken.MEND: "the implied column is overwritten",
}


def data_sheet(subject: Subject) -> str:
    """Return the data sheet as one HTML page."""
    return plain_page(
        title=f"Data sheet: synthetic records of {subject.name}",
        lead="What a table drawn from this release holds, where it comes from, and what it must not be used for.",
        body=[
            _why(subject),
            _columns(subject),
            _constraints(subject),
            _left_out(subject),
            _making(subject),
            _uses(subject),
        ],
    )


def _why(subject: Subject) -> str:
    study = subject.study
    told = [f"Purpose of the study, in its own words: {study.purpose or 'the study names none.'}"]
    if subject.release.schema.description:
        told.append(f"The schema says of itself: {subject.release.schema.description}")
    return section("Why it was made", subject.simulated_words, sentences(told))


def _columns(subject: Subject) -> str:
    schema = subject.release.schema
    rows = [_row(column, is_target=column.name == schema.target) for column in schema.columns]
    images = ""
    if schema.image is not None:
        images = f"An image ({schema.image.words}), and "
    return section(
        "What is in it",
        f"{images}{len(rows)} columns. Kinds, bounds and categories are the study's public data dictionary; they were"
        " declared public, and are not charged to anybody's ledger.",
        words_table(("Column", "Kind", "Values", "May be missing", "What it means"), rows, label="Columns"),
    )


def _row(column: Column, *, is_target: bool) -> Sequence[str]:
    kind = f"{column.kind.value}{', the target' if is_target else ''}"
    return column.name, kind, _values(column), "yes" if column.missing else "no", column.description


def _values(column: Column) -> str:
    if column.kind is Kind.BOOLEAN:
        return "true or false"
    if column.lower is not None:
        return f"{column.lower} to {column.upper}"
    shown = [*column.categories[:_MOST_CATEGORIES]]
    more = len(column.categories) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else []), *(["other"] if column.other else [])])


def _constraints(subject: Subject) -> str:
    """Return what every row fulfils; nothing where the schema declares nothing."""
    constraints = subject.release.schema.constraints
    if not constraints:
        return ""
    rows = [
        (_told(constraint), _RECORDS_THAT_BREAK[constraint.broken], constraint.description)
        for constraint in constraints
    ]
    return section(
        "What every row fulfils",
        "Constraints were declared with the columns, as public knowledge, and are not charged to anybody's ledger."
        " They hold in every row as it is written. The model did not learn them: rows are drawn until they hold, and"
        " implied columns are worked out. Where a column in a constraint is missing, it demands nothing. How many"
        " records of a site break one is not in the release.",
        words_table(("Constraint", "Records of a site that break it", "What it means"), rows, label="Constraints"),
    )


def _told(constraint: Constraint) -> str:
    if constraint.by is None:
        return constraint.text
    pairs = [f"{value} gives {implied}" for value, implied in constraint.lookup[:_MOST_CATEGORIES]]
    more = len(constraint.lookup) - len(pairs)
    return f"{constraint.text}: {', '.join([*pairs, *([f'and {more} more'] if more else [])])}"


def _left_out(subject: Subject) -> str:
    schema = subject.release.schema
    told = []
    if schema.drop:
        told.append(f"Left out at the sites, before anything was computed: {', '.join(schema.drop)}.")
    if schema.person is not None:
        told.append(f"{schema.person} only says whom a record is about. It is in no synthetic row.")
    if not schema.drop and schema.person is None:
        told.append("The schema names no column that was left out.")
    told.append("How many records the sites hold is not in the release: the study's figure is a public one.")
    return section("What is not in it", "", sentences(told))


def _making(subject: Subject) -> str:
    study = subject.study
    told = [
        f"The generator was trained among {len(subject.provenance.sites)} sites: {subject.sites}. What left them"
        " is told in the threat model.",
        f"The study names {study.federation.public_records:,} {study.privacy.unit.value}s in all as publicly known."
        " Divisors follow from that figure, and nothing follows from a count of records.",
        "A row is drawn from the generator and from nothing else: the same release, number of rows, condition and seed"
        " give the same rows on the same machine.",
        "Columns of numbers and dates are modelled in cells between public bounds; inside a cell a value is drawn"
        " evenly on the column's scale.",
    ]
    return section("How it is made", "", sentences(told))


def _uses(subject: Subject) -> str:
    told = [*limits(subject)]
    if subject.private:
        told.append(
            f"The statement covers rows and generator alike, in any number: {subject.release.statement.headline()}"
        )
    return section("What it must not be used for, and what covers it", "", sentences(told))
