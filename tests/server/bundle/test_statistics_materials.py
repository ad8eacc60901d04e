"""What a release's documents say of rounds of statistics."""

import html
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from protocol.study import Study
from records.dataset import Records
from server.bundle.model_card import model_card
from server.bundle.subject import Subject
from server.bundle.threats import threats
from server.release import Release
from server.verification import verify_release

SUM: dict[str, Any] = {
    "privacy": {"trust": "sum", "clip_norm": 3.0},
    "federation": {"sites": 6, "dropouts": 1, "colluders": 1},
}


def words_of(page: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())


def test_both_stages_are_named_with_what_bounds_and_hides_them(
    tmp_path: Path, deploy: Callable[..., Any], tiny_study: Callable[..., Study], tiny_records: Callable[..., Records]
) -> None:
    study = tiny_study(training={"rounds": 1}, **SUM)
    study = replace(study, statistics=replace(study.statistics, rounds=1))
    run = deploy(tmp_path / "run", study, {name: tiny_records(10, seed=seed) for seed, name in enumerate("abcdef")})
    release = Release.open(run.folder, device=torch.device("cpu"))
    subject = Subject.of(release, verify_release(release))
    statistics, training = subject.plan.stages

    card = words_of(model_card(subject))
    assert "In a round of statistics a site sends one sum over all of its records" in card
    assert "In a round a site sends one sum of gradients" in card
    for stage, norm in ((statistics, 1.0), (training, 3.0)):
        assert f"Clip norm, {stage.kind.value} {norm:g} for each record" in card
        assert f"Noise multiplier, {stage.kind.value} {stage.noise_multiplier:g}" in card

    told = "\n".join(f"{threat.against}: {threat.rests_on}" for threat in threats(subject))
    assert "Every record enters one sum of statistics once, divided by its public bound, clipped to a norm of 1" in told
    assert f"hidden by noise of multiplier {statistics.noise_multiplier:g}." in told
    assert f"clipped to a norm of 3 and hidden by noise of multiplier {training.noise_multiplier:g}" in told
    assert statistics.shares is not None
    assert training.shares is not None
    shares = [f"{stage.shares.share_multiplier:.3g}" for stage in (statistics, training)]
    assert (
        f"a share of multiplier {shares[0]} in the sums of statistics and {shares[1]} in the sums of gradients" in told
    )
