"""What only some studies have, put before an officer: a site column, lacking columns, a public start, constraints."""

from protocol.study import Study
from protocol.terms import Trust
from records.schema import Broken, Schema


def particulars(study: Study, schema: Schema, *, site: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Say what a study does beside the usual.

    Args:
        study: The study.
        schema: Its data dictionary.
        site: The name of the site whose officer reads it.

    Returns:
        Headings, each with its sentences; none for most studies.
    """
    found = (
        ("Site is learnt", _site_column(study, schema, site)),
        ("Lacking", _lacking(study, site)),
        ("Starts from", _start(study)),
        ("Says: public", _public(study)),
        ("Declared true", _constraints(schema)),
    )
    return tuple((heading, sentences) for heading, sentences in found if sentences)


def _site_column(study: Study, schema: Schema, site: str) -> tuple[str, ...]:
    if schema.site_column is None:
        return ()
    told = (
        f"Each record of this site gets {site!r} in the column {schema.site_column}, whatever the file holds there:"
        " the generator learns which site a record is from.",
        "Whoever has the release can draw records of this site alone, and estimate its share of all records. Each"
        " single record stays protected as stated; what holds of the site as a whole does not stay its own.",
    )
    if study.privacy.trust is not Trust.SUM:
        return told
    return (*told, "The secure sum hides what each site sends, and not what the generator says about each site.")


def _lacking(study: Study, site: str) -> tuple[str, ...]:
    lacking = study.federation.lacking or {}
    told = [
        f"{name} lacks {', '.join(columns)}: missing in all of its records."
        for name, columns in sorted(lacking.items())
        if name != site
    ]
    if site in lacking:
        columns = ", ".join(lacking[site])
        told.insert(
            0, f"This site lacks {columns}: missing in all of its records. What its file holds there is not read."
        )
    return tuple(told)


def _start(study: Study) -> tuple[str, ...]:
    init = study.model.init
    if init is None:
        return ()
    return (
        f"The public release {init.release!r}, weights {init.weights}. Another start is refused in the first round.",
        f"Its records are public, says its maker: {init.public}",
    )


_BROKEN = {
    Broken.REFUSE: "records that break it stop the load",
    Broken.DROP: "records that break it are left out, and counted here alone",
    Broken.MEND: "where a record says otherwise, it is read as if it said so",
}


def _constraints(schema: Schema) -> tuple[str, ...]:
    return tuple(f"{each.text}: {_BROKEN[each.broken]}." for each in schema.constraints)


def _public(study: Study) -> tuple[str, ...]:
    if not study.public:
        return ()
    return (
        f"The study says that the records of all sites are public: {study.public}",
        "Its release may then be what other studies start from, free of charge. Approve it only where this is true.",
    )
