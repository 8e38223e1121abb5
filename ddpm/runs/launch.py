"""Starts and ends the processes that do the work.  They outlive the process that starts them."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

import ddpm
from ddpm.config import codec, learning_rate
from ddpm.config.tasks import EvalConfig, FromCheckpoint, SampleConfig, SolverBenchmarkConfig
from ddpm.config.training import Config, DataConfig, TrainConfig
from ddpm.errors import UserError
from ddpm.host import hardware
from ddpm.runs import extending, run_folder, runs
from ddpm.runs.exclusive import guard
from ddpm.runs.jobs import ACTIVE, Job, Status
from ddpm.runs.results import KINDS, EvaluationJob, QualityJob, SampleJob, SolverBenchmarkJob, TrajectoryJob
from ddpm.runs.runs import Run
from ddpm.storage import ballast, files, folders, paths, processes

# Niceness of jobs, added so that other programs, above all the server of the dashboard, respond at once.  It costs
# nothing while the processor is otherwise idle.  Windows has priority classes instead: below normal.
NICE = 5

MEASURED = 200  # costs of trainings that are kept
MADE = "made.json"  # in the folder of a job that converts an archive: the folder that it makes


def start_training(run: Run, data_dir: str = "", enlarge: bool = False, total_steps: int = 0) -> None:
    """Starts or resumes a run in a process of its own.

    Raises UserError if a process works in it already, AlreadyDone if all its steps are done.
    data_dir: new path of its data, if that was moved; enlarge: enlarge small images there; total_steps: train up to
    this step, which is more than are saved, also if the run had done all of its own.
    """
    if total_steps:
        extending.extend(run, total_steps)
    with guard(run.folder.parent):
        runs.check_known(run)
        runs.check_unfinished(run)
        checkpoints, before = run.checkpoints(), run.status()
        step = checkpoints[-1].step if checkpoints else (before and before.saved) or 0
        _announce(run, run.config.train.total_steps, again=True, step=step)
    data = ["--data_dir", codec.with_absolute_paths(DataConfig(data_dir)).data_dir] if data_dir else []
    data += ["--enlarge", "True"] if enlarge else []
    _spawn(run, ["train", "--resume", run.name, "--runs_dir", str(run.folder.parent.absolute()), *data])


def start_result(run: Run, kind: str, settings: FromCheckpoint, more: Sequence[str] = ()) -> Any:
    """Starts the command of a row of `results.KINDS` in a process of its own, into a new folder; returns its job.

    more: flags besides those of the settings.
    """
    row = KINDS[kind]
    job = row.job(run.new_result_folder(kind))
    _announce(job, 0)
    where = ["--run", run.name, "--runs_dir", str(run.folder.parent.absolute())]
    _spawn(
        job,
        [
            *row.command.split(),
            *more,
            *where,
            *codec.to_flags(codec.with_absolute_paths(settings)),
            "--out",
            str(job.folder.absolute()),
        ],
    )
    return job


def start_sampling(run: Run, sample: SampleConfig) -> SampleJob:
    """Starts sampling from a run in a process of its own."""
    job: SampleJob = start_result(run, "samples", sample)
    return job


def resume_sampling(job: SampleJob) -> None:
    """Resumes a sampling job that was stopped, killed or failed, in a process of its own.

    Raises UserError if a process works in it, it has all its images, or it never started.
    """
    with guard(job.folder.parent):
        runs.check_resumable(job)
        _announce(job, 0, again=True)
    _spawn(job, ["sample", "--resume", str(job.folder.absolute())])


def resume_quality(job: QualityJob) -> None:
    """Resumes an evaluation of sample quality that ended early, in a process of its own.

    Raises UserError if a process works in it.
    """
    with guard(job.folder.parent):
        _announce(job, 0, again=True)
    _spawn(job, ["evaluate", "quality", "--resume", str(job.folder.absolute())])


def start_evaluation(run: Run, evaluation: EvalConfig) -> EvaluationJob:
    """Starts an evaluation of a run in a process of its own."""
    job: EvaluationJob = start_result(run, "evaluations", evaluation)
    return job


def start_solver_benchmark(run: Run, frontier: SolverBenchmarkConfig) -> SolverBenchmarkJob:
    """Starts a comparison of samplers on a run in a process of its own."""
    job: SolverBenchmarkJob = start_result(run, "frontiers", frontier)
    return job


def start_trajectory(run: Run, sample: SampleConfig, number: int = 0) -> TrajectoryJob:
    """Starts keeping every denoising step of image `number` of a request, in a process of its own."""
    job: TrajectoryJob = start_result(run, "microscopes", sample, ["--number", str(number)])
    return job


def cost_job(config: Config) -> Job:
    """The job that measures the cost of these settings on this machine; settings of equal cost share one.

    The metrics of its status hold the result: seconds_per_step, seconds_per_preview, peak_bytes.
    """
    relevant = (
        "batch_size",
        "microbatch",
        "precision",
        "use_fp16",
        "ema_rate",
        "grad_clip",
        "threads",
        "kernels",
        "preview_samples",
        "preview_steps",
    )
    train = TrainConfig(**{name: getattr(config.train, name) for name in relevant})
    cost = json.dumps(codec.to_json(dataclasses.replace(Config(), model=config.model, train=train)))
    where = [ddpm.__version__, platform.node(), hardware.processor(), str(hardware.physical()), cost]
    return Job(paths.cache_folder() / "measured" / hashlib.sha256("|".join(where).encode()).hexdigest()[:16])


def start_measuring(config: Config, again: bool = False) -> Job:
    """Measures seconds per step and memory of a training with these settings, in a process of its own.

    again: measure even if there is a result.
    """
    job = cost_job(config)
    with guard(job.folder.parent):
        if job.status() and job.state() in (ACTIVE if again else (*ACTIVE, "finished")):
            return job
        files.keep_newest(job.folder.parent, MEASURED - 1)
        cost = codec.replace(config, dict(seed=0, total_steps=1, train_for="", data_dir="", lr=1e-4))
        files.write_json(job.folder / "config.json", codec.to_json(cost))
        _announce(job, 0)
    _spawn(job, ["measure", str(job.folder)])
    return job


def import_job(folder: Path, runs_dir: Path) -> Job:
    """The job that imports that folder of improved-diffusion into `runs_dir`; its status shows the progress."""
    name = hashlib.sha256(f"{folder.absolute()}|{runs_dir.absolute()}".encode(errors="surrogatepass")).hexdigest()[:16]
    return Job(paths.user_temp_folder("import") / name)


def start_importing(folder: Path, runs_dir: Path, name: str, in_place: bool, flags: Sequence[str] = ()) -> Job:
    """Imports a folder of improved-diffusion as a run, in a process of its own."""
    job = import_job(folder, runs_dir)
    with guard(job.folder.parent):
        _announce(job, 0)
    _spawn(
        job,
        [
            "import",
            str(folder.absolute()),
            "--runs_dir",
            str(runs_dir.absolute()),
            "--run",
            name,
            "--in_place",
            str(in_place),
            *flags,
            "--job",
            str(job.folder),
        ],
    )
    return job


def copy_job(run: Run) -> Job:
    """The job that copies that run; its status counts megabytes."""
    name = hashlib.sha256(str(run.folder.absolute()).encode(errors="surrogatepass")).hexdigest()[:16]
    return Job(paths.user_temp_folder("copy") / name)


def start_copying(run: Run, name: str) -> Job:
    """Copies all of a run under that name, in a process of its own.

    Raises UserError if a process copies it already.
    """
    job = copy_job(run)
    with guard(job.folder.parent):
        _announce(job, 0)
    runs_dir = str(run.folder.parent.absolute())
    _spawn(job, ["runs", "duplicate", run.name, name, "--runs_dir", runs_dir, "--job", str(job.folder)])
    return job


def ema_job(run: Run) -> Job:
    """The job that makes an average of the run's weights; its status counts the averages that it is made of."""
    name = hashlib.sha256(str(run.folder.absolute()).encode(errors="surrogatepass")).hexdigest()[:16]
    return Job(paths.user_temp_folder("ema") / name)


def start_averaging(run: Run, width: float, step: int) -> Job:
    """Makes the average of that width for the checkpoint of `step`, in a process of its own.

    Raises UserError if a process makes one already.
    """
    job = ema_job(run)
    with guard(job.folder.parent):
        _announce(job, 0)
    runs_dir = str(run.folder.parent.absolute())
    what = ["--run", run.name, "--width", str(width), "--step", str(step)]
    _spawn(job, ["ema", *what, "--runs_dir", runs_dir, "--job", str(job.folder)])
    return job


def data_job(name: str) -> Job:
    """The job that downloads or converts that data set; its status shows the progress."""
    return Job(paths.cache_folder() / "jobs" / name)


def start_getting(name: str, archive: str = "") -> Job:
    """Downloads that data set, or converts its `archive`, in a process of its own.

    Raises UserError if a process does so already.
    """
    job = data_job(name)
    with guard(job.folder.parent):
        _announce(job, 0)
    _spawn(job, ["data", name, "--job", str(job.folder), *(["--archive", archive] if archive else [])])
    return job


def start_converting(name: str, archive: str, folder: str) -> Job:
    """Makes a folder of images of an archive of `data_sets.ARCHIVES`, in a process of its own.

    Raises UserError if a process does so already.
    """
    job = data_job(name)
    with guard(job.folder.parent):
        _announce(job, 0)
        job.write_json(job.folder / MADE, {"folder": folder})
    where = ["--folder", folder] if name == "imagenet64" else [folder]
    _spawn(job, ["data", name, archive, *where, "--job", str(job.folder)])
    return job


def made_folder(job: Job) -> str:
    """The folder of images that a job of `start_converting` makes; empty if there is none."""
    try:
        found = files.json_in(job.content, MADE, run_folder.MOST_CONTROL)
    except (UserError, OSError):
        return ""
    folder = found.get("folder") if isinstance(found, dict) else ""
    return folder if isinstance(folder, str) and os.path.isdir(folder) else ""


def check_job(state: str) -> Job:
    """The job that looks at every image of some data, in that state of its files: see `ddpm.data.checked`."""
    return Job(paths.cache_folder() / "jobs" / f"check-{state}")


def start_checking(data_dir: str, state: str, command: str = "check") -> Job:
    """Looks at every image of some data, in a process of its own, or makes their index (command: index)."""
    job = check_job(state)
    with guard(job.folder.parent):
        _announce(job, 0)
    _spawn(job, ["data", command, data_dir, "--job", str(job.folder)])
    return job


def _announce(job: Job, total_steps: int, again: bool = False, step: int | None = None) -> None:
    """Writes the status of a process that is about to start.

    again: it resumes earlier work; step: at this step, if that is not the last one that was done.

    Raises UserError if a process works there already.
    """
    state = job.state()
    if job.status() and state in ACTIVE:
        raise UserError(f"{job.name} is already {state}: wait for it, or stop it first.", code="still-running")
    before = job.status() or Status("starting", beat=-1)
    status = Status(
        "starting",
        total_steps=total_steps,
        boot=processes.boot(),
        updated_at=time.time(),
        monotonic=time.monotonic(),
        beat=before.beat + 1,
    )
    if again:
        total = total_steps or before.total_steps
        at = before.step if step is None else step
        status = dataclasses.replace(status, step=at, saved=before.saved, metrics=before.metrics, total_steps=total)
    folders.make(job.folder)
    ballast.load(job.folder)
    job.write_json(job.folder / "status.json", dataclasses.asdict(status))
    job.clear_requests()


def _spawn(job: Job, arguments: Sequence[str]) -> None:
    """Runs `python -m ddpm ...` in a new session, with its output appended to the log of the job.

    It starts in the folder of the package, so paths among the arguments have to be absolute.
    """
    root = str(Path(ddpm.__file__).parent.parent)
    more = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment = {**os.environ, **paths.absolute_variables(), "PYTHONPATH": os.pathsep.join([root, *more])}
    windows = {
        "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
    }
    try:
        with contextlib.ExitStack() as stack:
            log: IO[bytes] | int = subprocess.DEVNULL  # no work ends for want of a log
            with contextlib.suppress(OSError):
                log = stack.enter_context(job.content.make().append("log.txt"))
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ddpm", *arguments],  # -P: no module is taken from the current folder
                cwd=root,  # not wherever this process is, where a stranger's files may lie
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                **(windows if os.name == "nt" else {"start_new_session": True}),
            )
    except OSError as error:
        sentence = f"No process could be started ({error.strerror or error}): free memory or disk space, and try again."
        if (status := job.status()) is not None:
            failed = dataclasses.replace(status, state="failed", message=sentence)
            job.write_json(job.folder / "status.json", dataclasses.asdict(failed))
        raise UserError(sentence, code="process-failed") from error
    threading.Thread(target=process.wait, name="ddpm-reaper", daemon=True).start()  # or it stays a zombie when it ends
    _lower_priority(process.pid)


def _lower_priority(pid: int) -> None:
    """Lowers the priority of a process on the processor, where the system allows it."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if os.name == "nt":
            process.nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 0x4000))
            return
        process.nice(min(19, psutil.Process().nice() + NICE))
        # With autogroups, Linux schedules sessions first, and niceness counts within one only: this session is new.
        group = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY)
        try:
            os.write(group, str(process.nice()).encode())
        finally:
            os.close(group)


def stop(job: Job) -> None:
    """Asks a job to stop after the current step and save.  Raises UserError if it is not running."""
    state = job.state()
    if state not in ACTIVE:
        raise UserError(f"{job.name} is {state}, so there is nothing to stop.", code="not-running")
    job.request("stop")


def cool_down(run: Run) -> None:
    """Asks a training to begin its cooldown now, and to end with it.  Raises UserError where it cannot."""
    state, status = run.state(), run.status()
    if state not in ("running", "not responding"):
        raise UserError(f"{run.name} is {state}, so it cannot cool down: wait until it trains.", code="not-running")
    learning_rate.cooled_from(extending.train_now(run), status.step if status else 0)
    run.request("cooldown")


def kill(job: Job) -> None:
    """Kills the process; steps since the last checkpoint are lost.  Raises UserError if there is none."""
    found = job.processes()
    if not found:
        raise UserError(f"{job.name} has no process to end: its state is {job.state()}.", code="not-running")
    family = found
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*found[0].children(recursive=True), *found]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            processes.kill(process)
    psutil.wait_procs(family, timeout=5)
