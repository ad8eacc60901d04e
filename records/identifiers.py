"""Which column names, and which columns, look as if they pointed at a person."""

import re

import pyarrow as pa
import pyarrow.compute as pc

# fmt: off
_ALONE = frozenset(
    {
        "id", "ids", "pid", "uid", "uuid", "guid", "mrn", "ssn", "nhs", "nin", "nino", "iban", "ip", "url",
        "email", "mail", "phone", "telephone", "mobile", "fax", "name", "names", "surname", "firstname",
        "lastname", "fullname", "forename", "initials", "passport", "address", "street", "licence",
        "license", "rownames", "rownumber", "identifier"
    }
)
_PERSON = frozenset(
    {
        "patient", "person", "customer", "subject", "member", "client", "user", "visitor", "record", "case",
        "account", "invoice", "order"
    }
)
_NUMBER = frozenset(
    {
        "nbr", "nr", "no", "num", "number", "key", "code"
    }
)
# fmt: on
_GLUED = re.compile(r"(?:record|patient|customer|subject|person|invoice|client|user|account)(?:id|no|nbr|nr)")
_TEXT_SAMPLE = 20
_TEXT_LENGTH = 60


def looks_like_identifier(name: str) -> bool:
    """Tell whether a column name reads like an identifier of a person or a record.

    Args:
        name: Column name in any usual spelling (snake_case, camelCase, spaces, dots).

    Returns:
        True when a word of the name is one for identifiers.

    Examples:
        >>> looks_like_identifier("CustomerID"), looks_like_identifier("patient_nbr")
        (True, True)
        >>> looks_like_identifier("idle_minutes"), looks_like_identifier("age")
        (False, False)
    """
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = set(re.findall(r"[a-z]+", parted.lower()))
    glued = any(_GLUED.fullmatch(word) for word in words)
    return bool(words & _ALONE) or bool(words & _PERSON and words & _NUMBER) or glued


def looks_like_free_text(values: pa.Array) -> bool:
    """Tell whether a column of text holds nearly as many different values as rows, or long texts.

    Args:
        values: Array of any type.

    Returns:
        True for text of high cardinality; False for other types and for fewer than twenty values.
    """
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return False
    texts = values.drop_null().filter(pc.not_equal(values.drop_null(), ""))
    if len(texts) < _TEXT_SAMPLE:
        return False
    is_number = pc.match_substring_regex(texts, r"^\s*[+-]?[0-9.,:/ -]+([eE][+-]?[0-9]+)?\s*$")
    if pc.mean(is_number).as_py() > 0.5:
        return False
    many = pc.count_distinct(texts).as_py() > 0.9 * len(texts)
    return bool(many or pc.mean(pc.utf8_length(texts)).as_py() > _TEXT_LENGTH)
