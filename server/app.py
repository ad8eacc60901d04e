"""The Flower app of the coordinator: wiring, nothing else."""

from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from protocol.study import Study
from server.job import Job, wanted_job
from server.release import check_new, write_job_release, write_release
from server.start import start_weights
from server.study_run import StudyRun
from server.unhurried_grid import unhurried

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of the run's configuration, or go on with its job, and write the release."""
    config = context.run_config
    device = torch.device(str(config.get("device", "cpu")))
    folder = wanted_job(str(config.get("job") or ""))
    if folder is not None:
        job = Job.open(folder)
        with job.at_work() as wanted:
            if wanted:
                start = start_weights(job.study, job.start)
                run = StudyRun(unhurried(grid), job.study, device=device, job=job, start=start)
                write_job_release(job, run, run.execute())
        return
    release = Path(str(config["release"]))
    check_new(release)
    study = Study.from_text(str(config["study"]))
    run = StudyRun(grid, study, device=device, start=start_weights(study, str(config.get("start") or "")))
    evidence = run.execute()
    write_release(release, run, evidence, simulated=bool(config.get("simulated", False)))
