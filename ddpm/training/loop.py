"""The training process: from the run's folder, through every step, to its final checkpoint."""

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.checkpoints import checkpoint_files, fitting
from ddpm.compute import distributed
from ddpm.config import objectives
from ddpm.data import datasets, lineage, sources
from ddpm.diffusion import losses
from ddpm.errors import UserError, as_user_error
from ddpm.formatting import plural
from ddpm.runs import in_use, usage
from ddpm.runs.manifests import Checkpoint
from ddpm.runs.progress_log import columns_for
from ddpm.runs.runs import Run
from ddpm.runs.worker import Stopped, Worker
from ddpm.training import copy_watch, held_out, preview, resume, saving, warm_start
from ddpm.training.length import Length
from ddpm.training.log_writers import RunLog
from ddpm.training.pace import Pace
from ddpm.training.trainer import Means, Report, Trainer

log = logging.getLogger("ddpm")
SAVE_RETRY = 60.0  # seconds until a save that found no room is tried again


class TrainingLoop:
    """Trains a run: logs, saves, samples previews, and answers requests.  `worker` holds the run's lock.

    Of several processes each has a TrainingLoop; the main one reads and writes, and decides on requests for all.
    """

    @sources.opened_once()
    def __init__(self, run: Run, worker: Worker):
        self.run, self.worker = run, worker
        worker.follow(run)
        self.config = run.config
        too_many = distributed.set_num_threads(self.config.train.threads)
        self.device = distributed.device()
        worker.beat(state="starting", message="Reading the data")
        dataset = distributed.run_on_all_ranks(
            lambda: datasets.open_dataset(
                self.config.data, self.config.model, self._on_data, seed=self.config.train.seed, training=True
            )
        )
        for sentence in dataset.about:
            log.info("%s", sentence)
        for notice in dataset.notices:
            log.warning("%s", notice)
        if self.config.model.class_cond and dataset.class_names != self.config.class_names:
            raise UserError(
                f"The classes of {self.config.data.data_dir} are {', '.join(dataset.class_names) or 'none'} now, and"
                f" were {', '.join(self.config.class_names)} when the run began: {resume.elsewhere(run)}, or start a"
                " new run.",
                code="changed-classes",
            )
        if any(other != dataset.digest for other in distributed.all_gather_object(dataset.digest)):
            raise UserError(
                f"The processes of this training have other images in {self.config.data.data_dir}: give each the same.",
                code="changed-data",
            )
        part = distributed.run_on_all_ranks(lambda: held_out.open_part(self.config, self._on_data))
        self.dataset, self.images = dataset, len(dataset)
        self.notices = " ".join(filter(None, (*dataset.notices, too_many)))  # shown while there is no graver warning
        worker.beat(message="Building the network", warning=self.notices, now=True)
        self.trainer = Trainer(self.config, dataset, self.device)
        self.notices = " ".join(filter(None, (self.notices, *self.trainer.compute.notices)))
        for sentence in self.trainer.compute.notices:
            log.warning("%s", sentence)
        self.last_held_out: Mapping[str, float] = {}
        self.means = Means(len(self.trainer.schedule))
        self.seconds_before = 0.0
        self.train_ids = lineage.merge_train_ids(
            np.empty(0, np.uint64), dataset
        )  # identities of all images ever trained on; None: not known
        self._restore()
        self.held_out = held_out.begin(self.trainer, part)  # in the order that was restored
        if distributed.is_main():
            run.save_config(self.config)  # where its data was named anew
        self.metrics: RunLog | None = None  # of the main process
        if distributed.is_main():
            more = self.held_out.columns if self.held_out else ()
            columns = columns_for(losses.parts(self.config), scale=self.trainer.scale is not None, held_out=more)
            self.metrics = RunLog(run.folder, columns, self.config.train.log_formats, self.trainer.step)
        self._begin_held_out()
        self.copies = copy_watch.CopyWatch(run, worker, dataset)
        self.began = time.monotonic()
        self.pace = Pace()
        self.length = Length(run, worker, self.trainer)
        self.save_again_at = 0.0
        self.asked: set[str] = set()  # requests received and not yet met
        count = sum(p.numel() for p in self.trainer.parameters)
        objective = objectives.training_objective(self.config)
        log.info("Objective %s: %s", objective.name, objective.description)
        log.info(
            "%s, %s, computed %s, with %s",
            plural(len(dataset), "image"),
            plural(count, "parameter"),
            self.trainer.compute.words,
            plural(torch.get_num_threads(), "thread"),
        )
        worker.beat(computed=self.trainer.compute.words, warning=self.notices, now=True)
        if distributed.is_initialized():
            log.info(
                "%d processes, each with %d of %s a step",
                distributed.world_size(),
                self.config.train.batch_size,
                plural(self.config.train.batch_size * distributed.world_size(), "image"),
            )

    def _begin_held_out(self) -> None:
        """Says how often the loss on held-out images is measured; not in a run whose log was begun without it."""
        if self.held_out is None:
            return
        if distributed.broadcast_object(self.metrics is not None and "eval_mse" not in self.metrics.csv.columns):
            self.held_out = None
            log.info("The loss on held-out images is not measured: progress.csv has no column for it")
            return
        log.info(
            "The loss on %s is measured every %s",
            plural(len(self.held_out), "held-out image"),
            plural(self.held_out.interval, "step"),
        )

    def _on_data(self, done: int, total: int) -> None:
        distributed.raise_peer_error()
        self.worker.beat(message=f"Reading the data: {done} of {plural(total, 'image')}")
        if "stop" in self.worker.poll_requests():
            raise Stopped

    def _restore(self) -> None:
        """Resumes the newest intact checkpoint, or begins from the file that the settings name.

        The main process reads for all.
        """
        newest = distributed.run_on_main(lambda: resume.newest(self.run))
        found, self.bad = newest.checkpoint, set(newest.bad)
        self.notices = f"{newest.notice} {self.notices}".strip()
        at = found.step if found else 0
        self.worker.beat(step=at, saved=at, warning=self.notices, now=True)
        if found is None:
            if self.config.train.resume_checkpoint:
                self._begin_from(Path(self.config.train.resume_checkpoint))
                self.worker.beat(step=self.trainer.step, now=True)
            return
        state = distributed.run_on_main(lambda: checkpoint_files.read(found.path("state")))

        def load(kind: str) -> dict[str, Tensor]:
            return checkpoint_files.load_weights(found.path(kind)).tensors

        weights = {
            kind: distributed.run_on_main(partial(load, kind))
            for kind in self.trainer.weights()
            if kind in found.weights
        }
        fitting.fit(self.trainer.model, weights["model"], found.path("model").name)
        opt = found.path("opt") if found.path("opt").name in found.files else None
        read = distributed.run_on_main(lambda: checkpoint_files.optimizer_of(opt, weights["model"]) if opt else None)
        self.trainer.load(weights, read, state["trainer"])
        self.means.load(state["means"])
        self.last_held_out = state.get("held_out", {})
        self._compare(found, state)
        self.seconds_before = found.seconds
        what = state.get("restored", "weights, averages, optimiser, random state and place in the data")
        log.info("Resuming at step %d: %s", self.trainer.step, what)

    def _compare(self, found: Checkpoint, state: Mapping[str, Any]) -> None:
        """Reports whether the data is still what the run was trained on.  Raises UserError if it cannot be."""
        seen, count = lineage.from_json(state.get("data")), state.get("images", self.images)
        train_ids = checkpoint_files.train_ids_in(state)
        changed = distributed.run_on_all_ranks(
            lambda: lineage.check(self.config, seen, self.dataset, resume.remedy(self.run, found), train_ids=train_ids)
        )
        self.train_ids = lineage.merge_train_ids(train_ids, self.dataset)
        if seen is None and count != self.images:
            changed = f"There are {self.images:,} images now and were {count:,}."
        if changed:
            self.notices = f"{changed} Training goes on, but not as it would have. {self.notices}".strip()
            log.warning("%s Training goes on, but not as it would have.", changed)
        elif seen:
            log.info("The data is what it was: %s", self.config.data.data_dir)

    def _begin_from(self, path: Path) -> None:
        """Begins with the weights of a file, the averages and the optimiser next to it, and its number of steps."""
        start = distributed.run_on_main(lambda: warm_start.start_from(path, self.config))
        warm_start.begin(self.trainer, start)
        now, seen = self.dataset.digest, lineage.from_json(start.seen)
        mixed = lineage.count_mixed(start.train_ids, self.dataset)
        self.train_ids = lineage.merge_train_ids(start.train_ids, self.dataset)
        if mixed or (mixed is None and now.held_out and (seen is None or seen.held_out != now.held_out)):
            notice = (
                f"{path.name} may have been trained on images that are held out now: measured on these, the model may"
                " seem better than it is."
            )
            self.notices = f"{notice} {self.notices}".strip()
            log.warning("%s", notice)

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before the run was resumed."""
        return self.seconds_before + time.monotonic() - self.began

    def train(self) -> Generator[Report, None, None]:
        """Trains to the last step or until asked to stop; yields the report of each step.

        Closing the generator stops it too, and saves a checkpoint first.
        """
        try:
            yield from self._train()
        except distributed.PeerLost as error:
            raise UserError(
                f"Another process of this training ended, or could not be reached, at step {self.trainer.step}; "
                f"{self._kept()}: resume it with all processes.",
                code="peer-lost",
            ) from error

    def _train(self) -> Iterator[Report]:
        self.worker.beat(state="running", message="", step=self.trainer.step)
        for report in self.trainer.steps():
            self.means.add(report)
            self.length.follow_time(self.seconds)
            report = self._measured(report)
            self.config = self.trainer.config
            train, step = self.config.train, report.step
            last = step == train.total_steps
            due = step == 1 or step % train.log_interval == 0 or last or report.held_out or report.diverged
            if distributed.is_main() and due:
                self._log(report)
            self.pace.step()
            left = self.length.seconds_left(self.seconds, self.pace)
            self.worker.beat(step=step, steps_per_second=self.pace.per_second, seconds_left=left)
            if report.diverged:
                raise self._divergence_error(report)
            asked, save_due = distributed.broadcast_object((self.poll_requests(), self.save_is_due()))
            self.asked = set()
            if "cooldown" in asked:
                self.length.cool_down()
            stop = "stop" in asked and not last
            if stop:
                self.worker.beat(state="stopping", message="Saving")
            due = step % train.save_interval == 0 or self.length.begins_cooldown()
            save = due or last or stop or "save" in asked or save_due
            if save:
                self._save(report, must=last or stop)
            if (train.sample_interval and (step % train.sample_interval == 0 or last)) or "sample" in asked:
                cancelled = None if stop else self._stop_asked
                made = preview.save(self.run, self.worker, self.trainer, cancelled, self.last_held_out)
                if made is not None and self.copies.check(made, step, last, cancelled) and not self.save_again_at:
                    self.worker.beat(warning=self._warning(), now=True)
            if stop:
                self._end_stopped(step)
                return
            try:
                yield report
            except GeneratorExit:  # the caller wants no more steps
                if last:
                    self._end_finished()
                else:
                    if not save or self.save_again_at:  # that one found no room
                        self._save(report, must=True)
                    self._end_stopped(step)
                raise
        self._end_finished()

    def _measured(self, report: Report) -> Report:
        """The report with the loss on held-out images, where it is due now and no stop is asked for meanwhile."""
        if self.held_out is None or report.diverged or not self.held_out.is_due(report.step):
            return report
        self.worker.beat(message="Measuring the loss on held-out images")
        found = self.held_out.measure(self._stop_asked)
        self.last_held_out = found or self.last_held_out
        self.worker.beat(message="")
        return report._replace(held_out=found)

    def _end_stopped(self, step: int) -> None:
        self._close()
        self.worker.beat(state="stopped", seconds_left=None, message="")
        log.info("Stopped at step %d, saved; `%s` resumes", step, self.run.shell("train", "--resume"))

    def _end_finished(self) -> None:
        self._close()
        self.worker.beat(state="finished", seconds_left=0.0, message="")
        log.info("Finished: %s", plural(self.config.train.total_steps, "step"))

    def _close(self) -> None:
        if self.metrics:
            self.metrics.close()

    def _log(self, report: Report) -> None:
        row = self.means.take()
        speed = 1 / row.pop("step_seconds")
        row |= {
            "step": report.step,
            "samples": self.trainer.stream.position,
            "lr": report.lr,
            "seconds": self.seconds,
            "steps_per_second": speed,
            "param_norm": self.trainer.parameter_norm(),
            "memory_mb": round(usage.own_memory() / 1e6, 1),
            **({} if report.lg_loss_scale is None else {"lg_loss_scale": report.lg_loss_scale}),
            **report.held_out,
        }
        assert self.metrics is not None, "the main process logs"
        waited = self.metrics.waits
        if (wrong := self.metrics.write(row)) or (waited and not self.save_again_at):
            self.worker.beat(warning=wrong or self._warning())
        known = {**self.last_held_out, **row}
        finite: dict[str, Any] = {k: v if math.isfinite(v) else None for k, v in known.items()}
        self.worker.beat(metrics=finite)
        log.info(
            "step %d  loss %.4g  grad_norm %.3g  %.3g it/s",
            report.step,
            row["loss"],
            row.get("grad_norm", math.nan),
            speed,
        )

    def _warning(self) -> str:
        return f"{self.notices} {self.copies.notice}".strip()

    def _kept(self) -> str:
        saved = self.run.checkpoints()
        return f"the checkpoint of step {saved[-1].step} is intact" if saved else "nothing was saved before it"

    def _divergence_error(self, report: Report, what: str = "gradient") -> UserError:
        if report.lg_loss_scale is not None and what == "gradient":
            return UserError(
                f"The gradient of step {report.step} was not a number in fp16, with a loss scale of 2 to the power of "
                f"{report.lg_loss_scale:.0f} even, so training ended; {self._kept()}: "
                "start a new run with precision bf16 or fp32, or with a lower lr.",
                code="diverged",
            )
        return UserError(
            f"The {what} of step {report.step} was not a number, so training ended; {self._kept()}: "
            "start a new run with a lower lr, or with grad_clip 1.",
            code="diverged",
        )

    def poll_requests(self) -> set[str]:
        self.asked |= self.worker.poll_requests()
        return self.asked

    def _stop_asked(self) -> bool:
        self.worker.beat()
        return "stop" in self.poll_requests()

    def save_is_due(self) -> bool:
        return 0 < self.save_again_at < time.monotonic()

    def _save(self, report: Report, must: bool) -> None:
        """Saves a checkpoint.  If the disk is full it is tried again later, unless it `must` be saved now."""
        if report.applied and not all(values.isfinite().all() for values in report.losses.values()):
            raise self._divergence_error(report, "loss")
        self.length.record()
        state = {"trainer": self.trainer.state(), "means": self.means.state(), "images": self.images}
        state["data"], state["held_out"] = lineage.to_json(self.dataset.digest), dict(self.last_held_out)
        if self.train_ids is not None:
            state["learnt"] = torch.from_numpy(self.train_ids.view(np.int64))
        distributed.run_on_main(lambda: self._write(state, must))

    def _write(self, state: dict[str, Any], must: bool) -> None:
        assert self.metrics is not None, "the main process writes"
        self.worker.confirm_place()
        waits = saving.MUST_WAITS if must else ()
        if error := saving.try_to_save(self.run, self.trainer, state, self.metrics.sync(), self.seconds, waits):
            if self.worker.confirm_place():  # moved meanwhile
                self._write(state, must)
                return
            if must:
                lost = f"Step {self.trainer.step} was not saved, and {self._kept()}"
                raise UserError(f"{error} {lost}: resume the run once that is mended.", code=error.code)
            self.save_again_at = time.monotonic() + SAVE_RETRY
            sentence = (
                f"The checkpoint of step {self.trainer.step} was not saved. {error} Training continues, and tries"
                " again in a minute."
            )
            self.worker.beat(warning=sentence, now=True)
            log.warning("%s", sentence)
            return
        self.save_again_at = 0.0
        self.worker.beat(saved=self.trainer.step)
        self.bad.discard(self.trainer.step)
        try:
            keep, needed = self.config.train.keep_checkpoints, in_use.begun_from(self.run)
            checkpoint_files.prune(self.run, keep, self.bad, needed)
        except OSError as refused:
            log.warning("%s Earlier checkpoints stay for now.", as_user_error(refused))
        self.worker.beat(warning=self._warning(), now=True)
        log.info("Saved the checkpoint of step %d", self.trainer.step)
