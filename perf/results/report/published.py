"""Figures that others have published, or that were measured with their own programs: quoted, not run here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """One figure of somebody else.

    Attributes:
        data_set: One of `perf.results.sets.SETS`.
        system: What made the rows.
        promise: Under which promise.
        figure: What was measured, and the value.
        source: Who measured, and how.
    """

    data_set: str
    system: str
    promise: str
    figure: str
    source: str


_BENCHMARK = "one unreviewed benchmark; logistic regression trained on synthetic rows, tested on real ones; central"
_DP_CTGAN = (
    "DP-CTGAN's own paper (Fang, Dhami and Kersting 2022), classifiers and split as there; the columns as published, "
    "not the codes used here; central"
)
_AIM = "private-pgm's own script, model of 4 MB, workload of all pairs; the split and the trees of this page; central"
_IMAGES = "DPImageBench; a CNN trained on synthetic digits, tested on real ones; central"

QUOTED: tuple[Quoted, ...] = (
    Quoted(
        data_set="adult-binned",
        system="AIM",
        promise="epsilon 1, delta 1e-9, record",
        figure="AUROC .900, accuracy .850, 1-way .013, 2-way .048, 696 s",
        source=_AIM,
    ),
    Quoted(data_set="adult", system="AIM", promise="epsilon 1", figure="AUROC .816", source=_BENCHMARK),
    Quoted(data_set="adult", system="MST", promise="epsilon 1", figure="AUROC .761", source=_BENCHMARK),
    Quoted(data_set="adult", system="DP-CTGAN", promise="epsilon 1", figure="AUROC .758", source=_BENCHMARK),
    Quoted(data_set="adult", system="a DP-VAE", promise="epsilon 1", figure="AUROC .877", source=_BENCHMARK),
    Quoted(
        data_set="diabetes130",
        system="a DP-VAE",
        promise="epsilon 1",
        figure="AUROC .570; real .635",
        source=_BENCHMARK,
    ),
    Quoted(data_set="diabetes130", system="MST", promise="epsilon 1", figure="AUROC .522", source=_BENCHMARK),
    Quoted(
        data_set="breast-wdbc", system="DP-CTGAN", promise="epsilon 4", figure="AUROC .660; real .981", source=_DP_CTGAN
    ),
    Quoted(
        data_set="cardio", system="DP-CTGAN", promise="epsilon 4.7", figure="AUROC .683; real .715", source=_DP_CTGAN
    ),
    Quoted(
        data_set="cervical", system="DP-CTGAN", promise="epsilon 2", figure="AUROC .508; real .822", source=_DP_CTGAN
    ),
    Quoted(data_set="ilpd", system="DP-CTGAN", promise="epsilon 3.6", figure="AUROC .598; real .723", source=_DP_CTGAN),
    *(
        Quoted(data_set="mnist", system=system, promise="epsilon 1 / 10", figure=f"accuracy {figure}", source=_IMAGES)
        for system, figure in (
            ("DP-MERF", ".803 / .813"),
            ("GS-WGAN", ".724 / .753"),
            ("DP-GAN", ".924 / .927"),
            ("DP-Kernel", ".940 / .936"),
            ("DPDM", ".892 / .977"),
            ("DP-FETA", ".956 / .981"),
        )
    ),
)
