"""The model that a study describes: its family, shaped by its schema; the same everywhere."""

import torch

from models.families import build_family
from models.family import Family
from models.statistics import Statistics
from protocol.errors import StudyError
from protocol.study import Study
from protocol.terms import ContributionKind, Unit
from records.column import Kind
from records.schema import Schema
from records.site_values import check_site_terms


def study_schema(study: Study) -> Schema:
    """Return the study's data dictionary.

    Raises:
        SchemaError: If it is wrong.
        StudyError: If its site column names other sites than the study has, or a site lacks what no site may lack.
    """
    schema = Schema.from_mapping(study.schema)
    check_site_terms(schema, study.federation)
    return schema


def build_study_model(study: Study) -> Family:
    """Return the model with the initial weights that the study's public seed gives.

    Raises:
        StudyError: If the family or one of its options is unknown, or the unit is a person and the schema names none.
        SchemaError: If the schema is wrong.
    """
    schema = study_schema(study)
    if study.privacy.unit is Unit.PERSON and schema.person is None:
        raise StudyError(
            'privacy.unit is "person" and the schema has no person key.',
            remedy="Name the column that says whom a record is about: person = COLUMN.",
        )
    label = None if schema.target is None else schema.index(schema.target)
    model = build_family(
        study.model.family,
        study.model.options,
        cardinalities=schema.cardinalities,
        label=label,
        ordered=tuple(0 if c.kind is Kind.CATEGORICAL else c.values_cardinality for c in schema.columns),
        groups=tuple(c.group_codes for c in schema.columns),
        image=schema.image,
    )
    model.initialise(generator=torch.Generator().manual_seed(study.training.seed))
    return model


def statistics_of(study: Study, model: Family) -> Statistics:
    """Return what rounds of statistics release for a study's family.

    Raises:
        StudyError: If the family knows none.
    """
    if model.statistics is None:
        raise StudyError(
            f"model.family is {study.model.family!r}, which learns nothing from statistics.",
            remedy="Leave the section [statistics] out, or choose another family.",
        )
    return model.statistics


def check_statistics(study: Study, model: Family) -> None:
    """Refuse more rounds of statistics than the family has a use for: they would cost budget for nothing.

    Raises:
        StudyError: If there are more.
    """
    alone = study.training.strategy is ContributionKind.STATISTICS
    key, rounds = ("training", study.training.rounds) if alone else ("statistics", study.statistics.rounds)
    if not rounds:
        return
    statistics_of(study, model)
    if rounds > model.statistics_rounds:
        raise StudyError(
            f"{key}.rounds is {rounds}, and the family {study.model.family!r} has a use for {model.statistics_rounds}"
            " rounds of statistics.",
            remedy=f"Give {key}.rounds = {model.statistics_rounds}, or fewer.",
        )
