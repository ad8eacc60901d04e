"""The Flower app of the coordinator: wiring, nothing else."""

from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from protocol.study import Study
from server.release import check_new, write_release
from server.study_run import StudyRun

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of the run's configuration and write its release."""
    config = context.run_config
    release = Path(str(config["release"]))
    check_new(release)
    study = Study.from_text(str(config["study"]))
    run = StudyRun(grid, study, device=torch.device(str(config.get("device", "cpu"))))
    evidence = run.execute()
    write_release(release, run, evidence, simulated=bool(config.get("simulated", False)))
