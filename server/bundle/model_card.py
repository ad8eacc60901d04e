"""The model card: what was trained, for what, how, what it promises, and what it is no good for.

After Mitchell et al. 2019, "Model cards for model reporting". Every sentence follows from the release.
"""

from collections.abc import Sequence

from evaluation.page.skeleton import plain_page, section, sentences, words_table
from privacy.stage import Stage
from protocol.study import Optimiser
from protocol.terms import ContributionKind, Unit
from server.bundle.subject import Subject

_FAMILIES = {
    "vae": (
        "Variational auto-encoder of a table",
        "Encoder and decoder are trained on the sites' records. A row is drawn column by column from the decoder.",
    ),
    "gan": (
        "Generative adversarial network of a table",
        "Only the critic is trained on the sites' records. The generator is trained at the coordinator, against the"
        " critic and, where there were rounds of statistics, the counts that the sites released.",
    ),
    "vaegan": (
        "Variational auto-encoder of a table, with a critic",
        "Encoder, decoder and critic are trained on the sites' records; the decoder learns from what the critic says of"
        " its own draws, too. A row is drawn column by column from the decoder.",
    ),
}
_HEAD = ("What", "In this release")


def model_card(subject: Subject) -> str:
    """Return the model card as one HTML page."""
    return plain_page(
        title=f"Model card: {subject.name}",
        lead="What was trained, for what, how, and what it promises. Taken from the release and its study alone.",
        body=[_identity(subject), _use(subject), _training(subject), _privacy(subject), _quality(), _limits(subject)],
    )


def _identity(subject: Subject) -> str:
    release, provenance = subject.release, subject.provenance
    kind, _ = _FAMILIES.get(subject.study.model.family, (subject.study.model.family, ""))
    released = sum(weights.numel() for weights in release.model.generator.parameters())
    signer = "nobody" if release.coordinator is None else f"the coordinator with key {release.coordinator}"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(provenance.versions.items()))
    rows = [
        ("Name", subject.name),
        ("Kind", kind),
        ("Weights in the release", f"{released:,}"),
        ("Study", subject.study.hash),
        ("Run", provenance.run),
        ("Sites", subject.sites),
        ("Signed by", signer),
        ("Code", f"fingerprint {provenance.code}"),
        ("Made with", versions),
    ]
    return section("What it is", subject.simulated_words, words_table(_HEAD, rows, label="What it is"))


def _use(subject: Subject) -> str:
    purpose = subject.study.purpose or "The study names none."
    columns = len(subject.release.schema.columns)
    told = [
        f"The study's purpose, in its own words: {purpose}",
        f"It gives synthetic rows of {columns} columns, as many as are asked for; the data sheet describes them.",
        "Drawing rows looks at no record. However many are drawn, the statement stays what it is.",
    ]
    return section("What it is for", "", sentences(told))


def _training(subject: Subject) -> str:
    study, provenance = subject.study, subject.provenance
    training = study.training
    _, how = _FAMILIES.get(study.model.family, ("", ""))
    told = [how] if how else []
    told.append(_contribution(subject))
    if provenance.unfinished:
        told.append(
            f"{provenance.unfinished} of the {provenance.rounds} rounds gave no sum and left the model as it was. They"
            " count as spent all the same."
        )
    trained = training.strategy is not ContributionKind.STATISTICS
    averaged = (
        f"The released weights are an exponential moving average of the weights, with decay {training.averaging:g}."
        if training.averaging and trained
        else "The released weights are those of the last round."
    )
    told.append(averaged)
    rows = [
        ("Rounds", f"{provenance.rounds}"),
        ("Contributions, by the coordinator's count", _contributions(subject)),
        *([("Server's optimiser", _optimiser(subject))] if trained else []),
        *(row for stage in subject.plan.stages for row in _stage_rows(subject, stage)),
        ("Options of the family", _options(subject)),
    ]
    return section("How it was trained", "", sentences(told), words_table(_HEAD, rows, label="How it was trained"))


def _stage_rows(subject: Subject, stage: Stage) -> list[tuple[str, str]]:
    """Rate, bound and noise of a stage; where there are two, each row says of which."""
    named = f", {stage.kind.value}" if len(subject.plan.stages) > 1 else ""
    everybody = stage.kind is ContributionKind.STATISTICS
    rate = f"1: every {stage.unit.value}" if everybody else f"{stage.sample_rate:g}, by independent coins (Poisson)"
    return [
        (f"Sample rate of a step{named}", rate),
        (f"Clip norm{named}", f"{stage.clip_norm:g} for each {stage.unit.value}"),
        (f"Noise multiplier{named}", f"{stage.noise_multiplier:g}" if stage.noise_multiplier else "0: no noise"),
    ]


def _statistics(unit: str) -> str:
    return (
        f"In a round of statistics a site sends one sum over all of its {unit}, of public functions of each that are"
        " divided by their public bound, with noise added."
    )


def _contribution(subject: Subject) -> str:
    study = subject.study
    unit = "records" if study.privacy.unit is Unit.RECORD else "people"
    if not subject.plan.noise_multiplier:
        return "The study adds no noise to what the sites send."
    if study.training.strategy is ContributionKind.STATISTICS:
        return _statistics(unit)
    opening = study.statistics.rounds
    begins = "one round of statistics" if opening == 1 else f"{opening} rounds of statistics"
    before = f"Training begins after {begins}. {_statistics(unit)} " if opening else ""
    if study.training.strategy is ContributionKind.UPDATES:
        return (
            f"{before}In a round a site takes {study.training.local_steps} steps, each on those of its {unit} that are"
            " drawn, clipped one by one and with noise added to their sum, and sends how its weights changed."
        )
    return (
        f"{before}In a round a site sends one sum of gradients: of those of its {unit} that are drawn, clipped one by"
        " one, with noise added."
    )


def _contributions(subject: Subject) -> str:
    return ", ".join(f"{name} {site.contributions}" for name, site in sorted(subject.provenance.sites.items()))


def _optimiser(subject: Subject) -> str:
    training = subject.study.training
    moments = f"momentum {training.momentum:g}"
    if training.optimiser is Optimiser.ADAM:
        moments = f"decay of the moments {training.momentum:g} and {training.second_moment:g}"
    return f"{training.optimiser.value}, learning rate {training.learning_rate:g}, {moments}"


def _options(subject: Subject) -> str:
    options = subject.study.model.options
    return ", ".join(f"{name} = {value}" for name, value in sorted(options.items())) or "the family's defaults"


def _privacy(subject: Subject) -> str:
    statement = subject.release.statement
    return section("What it promises", "The whole of it stands in the statement.", sentences([statement.headline()]))


def _quality() -> str:
    told = [
        "Nothing about quality was measured for this card. To compare synthetic with real records is a look at the real"
        " ones, which no statement covers: it belongs to a site, and stays there.",
        "A site does it with: cloister evaluate RELEASE --real FILE.",
    ]
    return section("How good it is", "", sentences(told))


def _limits(subject: Subject) -> str:
    return section("What it is no good for", "", sentences(limits(subject)))


def limits(subject: Subject) -> Sequence[str]:
    """What neither the generator nor its rows can be used for, as sentences."""
    told = [
        "No synthetic row is about anybody. One that resembles a person does not show that the person's record was"
        " there, and nothing may be decided about a person by it.",
        "Rows are drawn one by one: they do not belong together as the visits of one person do, and follow on nothing.",
        "What the rows show is what the model learnt. Confirm on real records whatever a decision rests on.",
    ]
    if subject.private:
        told.append(
            "Noise hides what only a few records show. Do not rely on rare values and small groups: that they come out"
            " badly is what protects those who are in them."
        )
    else:
        told.append("Nothing is promised: a row may repeat a real record. Treat rows like the records themselves.")
    return told
