"""Names that read like identifiers."""

import pyarrow as pa
import pytest

from records.identifiers import looks_like_free_text, looks_like_identifier


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "ID",
        "PID",
        "pid",
        "patient_nbr",
        "patientId",
        "RecordID",
        "Customer ID",
        "customer-no",
        "InvoiceNo",
        "mrn",
    ]
    + [
        "fake_first_name",
        "Surname",
        "e-mail",
        "EmailAddress",
        "phone",
        "SSN",
        "subject_id",
        "rownames",
        "uuid",
        "customerid",
    ],
)
def test_identifiers(name):
    assert looks_like_identifier(name)


@pytest.mark.parametrize(
    "name",
    [
        "age",
        "idle",
        "video",
        "fnlwgt",
        "native-country",
        "Number of sexual partners",
        "Num of pregnancies",
        "num",
        "Region",
    ]
    + [
        "education-num",
        "medical_specialty",
        "pan_day",
        "orderset",
        "Nat.Am",
        "IUD",
        "Weekend",
        "hours-per-week",
        "Grid",
        "kid",
    ],
)
def test_harmless_names(name):
    assert not looks_like_identifier(name)


def test_free_text():
    assert looks_like_free_text(pa.array([f"person {index}" for index in range(50)]))
    assert looks_like_free_text(pa.array(["a long remark that says very much about one patient indeed, " * 2] * 50))
    assert not looks_like_free_text(pa.array(["a", "b"] * 25))
    assert not looks_like_free_text(pa.array([f"{index}.5" for index in range(50)]))
    assert not looks_like_free_text(pa.array([f"2020-01-{index:02d}" for index in range(1, 29)]))
    assert not looks_like_free_text(pa.array(list(range(50))))
    assert not looks_like_free_text(pa.array(["x", "y"]))
