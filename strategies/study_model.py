"""The model that a study describes: its family, shaped by its schema; the same everywhere."""

import torch

from models.families import build_family
from models.family import Family
from protocol.errors import StudyError
from protocol.study import Study
from protocol.terms import Unit
from records.schema import Schema


def study_schema(study: Study) -> Schema:
    """Return the study's data dictionary.

    Raises:
        SchemaError: If it is wrong.
    """
    return Schema.from_mapping(study.schema)


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
    model = build_family(study.model.family, study.model.options, cardinalities=schema.cardinalities, label=label)
    model.initialise(generator=torch.Generator().manual_seed(study.training.seed))
    return model
