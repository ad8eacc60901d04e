"""The model that a study describes: its family, shaped by its schema. The same at the server and at every site."""

import torch

from models.families import build_family
from models.family import Family
from protocol.study import Study
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
        StudyError: If the family or one of its options is unknown.
        SchemaError: If the schema is wrong.
    """
    schema = study_schema(study)
    label = None if schema.target is None else schema.index(schema.target)
    # Initial weights are public. The global generator is forked, not consumed: nobody else's draws change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(study.training.seed)
        return build_family(
            study.model.family, study.model.options, cardinalities=schema.cardinalities, label=label
        )
