"""The options of ``cloister sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from cli.site.folder import FOLDER_VARIABLE

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study file (TOML), or the name of a ready study.")
]
PublicOption = Annotated[
    str | None, typer.Option(metavar="WHY", help="Tune on public records: say why they are public.")
]
SyntheticOption = Annotated[
    Path | None, typer.Option(metavar="RELEASE", help="Tune on rows drawn from this release: costs nothing more.")
]
ChargedOption = Annotated[
    bool, typer.Option("--charged", help="Tune on a site's private records: its ledger pays for every trial.")
]
DataOption = Annotated[
    str | None, typer.Option(help="With --public: the records, as for `cloister simulate`.", show_default=False)
]
RowsOption = Annotated[
    int | None,
    typer.Option(min=10, help="With --synthetic: rows to draw; the study's public_records, at most 50,000."),
]
SiteOption = Annotated[
    Path | None,
    typer.Option("--site", envvar=FOLDER_VARIABLE, metavar="FOLDER", help="With --charged: the site's folder."),
]
ScoreNoiseOption = Annotated[
    float | None,
    typer.Option(help="With --charged: noise on the number of right answers, in answers; 10 if not given."),
]
ChoicesOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE,VALUE", help="Values to try; may be repeated.")
]
RangesOption = Annotated[
    list[str] | None,
    typer.Option("--range", metavar="KEY=LOW:HIGH[:log]", help="Numbers to try; may be repeated."),
]
SpaceOption = Annotated[
    Path | None, typer.Option("--space", metavar="FILE", help="The same as TOML, in the form of a study.")
]
SearchOption = Annotated[
    str | None,
    typer.Option(help="grid, random or bayesian (needs Optuna); grid for lists, random where there is a range."),
]
TrialsOption = Annotated[
    int | None, typer.Option(min=1, help="Trials of a random or Bayesian search; 20 if not given.")
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        help="auroc, accuracy, average_precision, tvd1, tvd2, tvd3, detection (of images feature_distance), or a "
        "sum such as auroc=1,tvd2=2; auroc if not given. With --charged: accuracy or balanced_accuracy."
    ),
]
RepeatsOption = Annotated[int, typer.Option(min=1, max=1000, help="Trainings of every trial; the mean counts.")]
SitesOption = Annotated[int | None, typer.Option(min=1, help="Number of sites; the study's own if not given.")]
PartitionOption = Annotated[
    str | None, typer.Option(help="How records are split over sites, as for `cloister simulate`.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the search and the splits.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Study file to write; beside it NAME.trials.jsonl is kept.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing study file.")]
YesOption = Annotated[bool, typer.Option("--yes", help="With --charged: pay without asking.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
JsonOutputOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
