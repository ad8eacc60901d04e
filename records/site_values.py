"""What a site fills in by itself: the column that names it, and columns that it lacks.

Both are public: a study declares them, and every site approves it. What a source holds there is never read.
"""

from collections.abc import Sequence

from protocol.errors import RecordsError, StudyError
from protocol.study import FederationTerms, Study
from records.schema import Schema


def fixed_codes(schema: Schema, *, site: str, lacking: Sequence[str]) -> dict[str, int]:
    """Give the code that every record of a site has in the columns that the site fills in.

    Args:
        schema: The data dictionary.
        site: The site's name.
        lacking: Columns that the site lacks; they get the code for missing.

    Returns:
        Codes by the name of the column; empty where all columns are read.

    Raises:
        RecordsError: The schema's site column has no such site.
        StudyError: A column that the site lacks does not exist, or may not be missing.

    Examples:
        >>> schema = Schema.from_mapping({
        ...     "site_column": "hospital",
        ...     "columns": [
        ...         {"name": "hospital", "kind": "categorical", "categories": ["north", "south"]},
        ...         {"name": "age", "kind": "integer", "lower": 0, "upper": 89, "missing": True},
        ...     ],
        ... })
        >>> fixed_codes(schema, site="south", lacking=("age",))
        {'hospital': 1, 'age': 90}
    """
    fixed = {}
    if schema.site_column is not None:
        names = schema.column(schema.site_column).categories
        if site not in names:
            raise RecordsError(
                f"Site {site!r} is not among the values of the site column {schema.site_column!r}.",
                remedy=f"The study's schema names the sites: {', '.join(names)}.",
            )
        fixed[schema.site_column] = names.index(site)
    for name in lacking:
        _check_lacking(schema, site, name)
        fixed[name] = schema.column(name).values_cardinality
    return fixed


def site_codes(study: Study, schema: Schema, *, site: str) -> dict[str, int]:
    """Give what :func:`fixed_codes` gives for a site of a study.

    Args:
        study: The study.
        schema: Its data dictionary.
        site: The site's name.

    Raises:
        RecordsError: As :func:`fixed_codes`.
        StudyError: As :func:`fixed_codes`.
    """
    lacking = study.federation.lacking or {}
    return fixed_codes(schema, site=site, lacking=tuple(lacking.get(site, ())))


def check_site_terms(schema: Schema, federation: FederationTerms) -> None:
    """Refuse a study whose sites are not those of its site column, or lack what no site may lack.

    Args:
        schema: The study's data dictionary.
        federation: Its federation.

    Raises:
        StudyError: Saying which.
    """
    if schema.site_column is not None:
        _check_names(schema.column(schema.site_column).categories, schema.site_column, federation)
    for site, columns in (federation.lacking or {}).items():
        for name in columns:
            _check_lacking(schema, site, name)


def _check_names(categories: tuple[str, ...], column: str, federation: FederationTerms) -> None:
    listed = federation.roster
    if len(categories) != federation.sites or (listed is not None and set(categories) != set(listed)):
        found = f"the study has {federation.sites} sites" if listed is None else f"the roster has {', '.join(listed)}"
        raise StudyError(
            f"The site column {column!r} names {', '.join(categories)}; {found}.",
            remedy="Let its categories be the names of all sites, and no others.",
        )
    for site in federation.lacking or {}:
        if site not in categories:
            raise StudyError(
                f"federation.lacking.{site} is no site of the site column {column!r}.",
                remedy=f"Its sites are {', '.join(categories)}.",
            )


def _check_lacking(schema: Schema, site: str, name: str) -> None:
    key = f"federation.lacking.{site}"
    if name not in schema.names or name == schema.site_column:
        raise StudyError(
            f"{key} names {name!r}, which is no column that a source has.", remedy="Name columns of the schema."
        )
    if not schema.column(name).missing:
        raise StudyError(f"{key} names {name!r}, which is never missing.", remedy=f"Set missing = true for {name}.")
