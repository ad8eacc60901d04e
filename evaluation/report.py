"""The report: what an evaluation found, as JSON for programs and as one HTML page for people.

Both were computed from real records without noise. They stay where the records are, unless the evaluation was
charged to the site's ledger like any other release; the page says so at its top, the JSON under ``warning``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evaluation.baselines import Yardstick
from evaluation.detection import Detection
from evaluation.fidelity import Fidelity
from evaluation.page.cards import cards
from evaluation.page.sections import (
    associations_section,
    columns_section,
    missing_section,
    notes_section,
    pairs_section,
    prediction_section,
    statement_section,
)
from evaluation.page.skeleton import WARNING, WARNING_TITLE, page
from evaluation.plots import Marginal
from evaluation.prediction.scores import Scores, false_positive_rate
from evaluation.utility import Utility

VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What was found when synthetic rows were compared with real ones.

    Attributes:
        names: The columns, ``C`` of them.
        kinds: Kind of each column.
        may_be_missing: Which columns may be missing.
        target: The column that was predicted, or None.
        train_rows: Number of real training rows, None where none were given.
        test_rows: Number of real test rows.
        synthetic_rows: Number of synthetic rows.
        compared_with: Which real rows the distances are to: "train" or "test".
        fidelity: The distances.
        yardsticks: The distances of generators that need no training.
        marginals: Both histograms of every column.
        utilities: One for each classifier; empty without a target.
        detection: How well synthetic rows can be told from real ones.
        notes: What a reader must know, as sentences.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    may_be_missing: tuple[bool, ...]
    target: str | None
    train_rows: int | None
    test_rows: int
    synthetic_rows: int
    compared_with: str
    fidelity: Fidelity
    yardsticks: tuple[Yardstick, ...]
    marginals: tuple[Marginal, ...]
    utilities: tuple[Utility, ...]
    detection: Detection
    notes: tuple[str, ...]

    def to_json(self, *, statement: Mapping[str, object] | None = None, statement_lines: Sequence[str] = ()) -> str:
        """Return everything as JSON (RFC 8259: no NaN), version `VERSION`.

        Args:
            statement: The privacy statement of the synthetic rows, of values that JSON knows; None if there
                is none.
            statement_lines: The same in words.
        """
        found = {
            "version": VERSION,
            "warning": f"{WARNING_TITLE} {WARNING}",
            "statement": None if statement is None else dict(statement),
            "statement_lines": list(statement_lines),
            "target": self.target,
            "rows": {"train": self.train_rows, "test": self.test_rows, "synthetic": self.synthetic_rows},
            "compared_with": self.compared_with,
            "fidelity": self._fidelity_as_plain(),
            "yardsticks": [asdict(stick) for stick in self.yardsticks],
            "utility": [_utility_as_plain(utility) for utility in self.utilities],
            "detection": asdict(self.detection),
            "columns": self._columns_as_plain(),
            "notes": list(self.notes),
        }
        return json.dumps(found, allow_nan=False, ensure_ascii=False, indent=2)

    def to_html(self, *, statement: Mapping[str, object] | None = None, statement_lines: Sequence[str] = ()) -> str:
        """Return one page that is complete in itself: nothing is loaded, no script runs.

        Args:
            statement: The privacy statement of the synthetic rows; None if there is none.
            statement_lines: The same in words, one paragraph each.
        """
        headlines = cards(
            fidelity=self.fidelity,
            utility=self.utilities[0] if self.utilities else None,
            detection=self.detection,
            yardsticks=self.yardsticks,
            target=self.target or "",
            may_be_missing=self.may_be_missing,
        )
        body = [
            f'<div class="cards">{"".join(card.to_html() for card in headlines)}</div>',
            statement_section(statement, statement_lines),
            columns_section(self.marginals),
        ]
        if len(self.names) > 1:
            body += [
                pairs_section(self.names, self.fidelity),
                associations_section(self.names, self.fidelity),
            ]
        if self.utilities:
            body.append(prediction_section(self.utilities, self.target or ""))
        body += [
            missing_section(self.names, self.may_be_missing, self.fidelity),
            notes_section(self.notes),
        ]
        return page(title="Synthetic and real records compared", lead=self._lead(), body=body)

    def _lead(self) -> str:
        training = "" if self.train_rows is None else f"{self.train_rows:,} real training rows, "
        compared = "training" if self.compared_with == "train" else "test"
        return (
            f"{self.synthetic_rows:,} synthetic rows, {training}{self.test_rows:,} real test rows, "
            f"{len(self.names)} columns. "
            f"Distances are to the real {compared} rows; predictions are tested on the real test rows."
        )

    def _fidelity_as_plain(self) -> dict[str, object]:
        found = self.fidelity
        return {
            "one_way": found.one_way,
            "two_way": found.two_way,
            "three_way": found.three_way,
            "association_difference": found.association_difference,
            "pairs": found.pairs.tolist(),
            "triples": found.triples.tolist(),
            "triple_distances": found.triple_distances.tolist(),
            "real_associations": found.real_associations.tolist(),
            "synthetic_associations": found.synthetic_associations.tolist(),
        }

    def _columns_as_plain(self) -> list[dict[str, object]]:
        return [
            {
                "name": name,
                "kind": self.kinds[index],
                "may_be_missing": self.may_be_missing[index],
                "distance": float(self.fidelity.columns[index]),
                "real_missing": float(self.fidelity.real_missing[index]),
                "synthetic_missing": float(self.fidelity.synthetic_missing[index]),
                "labels": list(self.marginals[index].labels),
                "real": self.marginals[index].real.tolist(),
                "synthetic": self.marginals[index].synthetic.tolist(),
            }
            for index, name in enumerate(self.names)
        ]


def _utility_as_plain(utility: Utility) -> dict[str, object]:
    return {
        "learner": str(utility.learner),
        "classes": list(utility.classes),
        "majority_share": utility.majority_share,
        "synthetic": _scores_as_plain(utility.synthetic),
        "real": None if utility.real is None else _scores_as_plain(utility.real),
    }


def _scores_as_plain(scores: Scores) -> dict[str, object]:
    curve = scores.true_positive_rate
    return {
        "auroc": scores.auroc,
        "accuracy": scores.accuracy,
        "average_precision": scores.average_precision,
        "false_positive_rate": None if curve is None else false_positive_rate().tolist(),
        "true_positive_rate": None if curve is None else curve.tolist(),
        "notes": list(scores.notes),
    }
