"""What became of a run that was disturbed: whether it is reported, whole, and to the bit as if nothing had been."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def nothing_is_lost(folder: Path, goes_on: str) -> tuple[str, str]:
    """What was committed before is whole, and the run, if it was begun, goes on to its end."""
    from ddpm.checkpoints import checkpoint_files
    from ddpm.cli import main as cli
    from ddpm.runs.runs import Run

    saved = [saved for path in folder.glob("runs/[!.]*") for saved in Run(path).checkpoints()]
    wrong = [checkpoint_files.damage(one) for one in saved]
    if not saved or any(wrong):
        return "lost", f"{len(wrong)} checkpoints; {' '.join(wrong)}"
    run = Run(folder / "runs" / goes_on)
    if not goes_on or not run.folder.exists():
        return "well", ""
    code = cli.main(["train", "--resume", goes_on, "--runs_dir", str(folder / "runs")])
    if code != 0 or run.checkpoint().step != run.config.train.total_steps:
        return "lost", f"it was resumed with code {code}, and ended at step {run.checkpoint().step}"
    return "well", ""


def how_it_is_reported(run_folder: Path, how: str) -> tuple[str, str]:
    """Whether what was committed is whole, and, on a full disk, whether the status says how it ended."""
    from ddpm.checkpoints import checkpoint_files
    from ddpm.runs.runs import Run

    run = Run(run_folder)
    wrong = [fault for one in run.checkpoints() if (fault := checkpoint_files.fault(one))]
    if wrong or run.manifests().wrong:
        return "lost", f"{wrong} {run.manifests().wrong}"
    if how in ("once", "short", "full") and run.state() not in ("finished", "stopped", "failed"):
        return "untold", f"the state is {run.state()}"
    status = run.status()
    if how == "full" and status and status.state == "failed" and not status.message:
        return "untold", "no message"
    return "well", ""


def after_power_cut(run_folder: Path, committed: int) -> tuple[str, str]:
    """Whether the newest set is whole, with the log up to it, and not older than the one that was on disk for sure."""
    from ddpm.checkpoints import checkpoint_files
    from ddpm.runs.runs import Run

    run = Run(run_folder)
    run.state()
    if not (run_folder / "config.json").exists():
        return ("lost", "the run") if committed else ("well", "")
    found, wrong = checkpoint_files.newest_intact(run)
    if wrong:
        return "lost", f"{wrong}"
    if (found.step if found else 0) < committed:
        return "lost", f"step {committed}: the newest is {found and found.step}"
    damage = checkpoint_files.log_damage(found) if found else ""
    return ("lost", damage) if damage else ("well", "")


def as_if_nothing_had_been(run_folder: Path, whole: Path, every: Path, said: str, how: str) -> tuple[str, str]:
    """Resumes the run, unless it is done, and compares it to the bit with one that nothing disturbed.

    every: the undisturbed run with all of its sets.  said: what the disturbed process said.
    """
    from ddpm.cli import main as cli
    from ddpm.runs.runs import Run

    run = Run(run_folder)
    before = [c.step for c in run.checkpoints()]
    code = cli.main(["train", "--resume", run.name, "--runs_dir", str(run_folder.parent)])
    if code != 0:
        return "lost", f"it was resumed with code {code}"
    done, after = STEPS[-1] in before, [c.step for c in run.checkpoints()]
    if wrong := wrong_steps(before, after, said, killed=how in ("kill", "cut")):
        return "lost", wrong
    if differences := list(differ(run_folder, whole, every)):
        return "lost", f"{differences}"
    left = [str(p) for p in run_folder.rglob("*") if p.suffix == ".begun" or p.name.startswith(".tmp-")]
    left = [] if done else left  # nothing was started that could have removed it
    return ("left", f"{left}") if left else ("well", "")


STEPS = (2, 4, 6)  # of the sets that are saved
KEPT = 2  # of them, by --keep_checkpoints


def wrong_steps(before: list[int], after: list[int], said: str, killed: bool) -> str:
    """Says how the sets of a run are not those of an undisturbed one; empty where they are.

    before, after: steps of its sets when the disturbed process had ended, and after Resume.  A set may be missing
    where that process said that it could not save it, and Resume went on from a later one; it need not be missing, as
    what failed may have been to flush the folder when all was written.  One more than is kept may
    be there where it was killed, or said that it could not remove one, after the last set was saved: Resume then has
    nothing to do, and changes nothing.
    """
    refused = {int(step) for step in re.findall(r"The checkpoint of step (\d+) was not saved", said)}
    due = [step for step in STEPS if step not in refused or step > max(before, default=0)]
    allowed = [due[-KEPT:], list(STEPS)[-KEPT:]]
    if STEPS[-1] in before and (killed or "Earlier checkpoints stay for now" in said):
        allowed.append(due)
    return "" if after in allowed else f"steps {before}, then {after}, not {' or '.join(map(str, allowed))}"


def differ(one: Path, whole: Path, every: Path) -> Iterator[str]:
    """Names what differs from the undisturbed run: tensors and generators of each set, rows of the log; times aside."""
    import torch

    from ddpm.checkpoints import checkpoint_files
    from ddpm.runs import metrics
    from ddpm.runs.runs import Run

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "step_seconds")
        return bool(a == b)

    theirs = {c.step: c for c in Run(every).checkpoints()}
    for checkpoint in Run(one).checkpoints():
        if wrong := checkpoint_files.fault(checkpoint) or checkpoint_files.log_damage(checkpoint):
            yield wrong
        if checkpoint.files.keys() != theirs[checkpoint.step].files.keys():
            yield f"files of step {checkpoint.step}: {sorted(checkpoint.files)}"
            continue
        for name in checkpoint.files:
            if not same(checkpoint_files.read(one / name), checkpoint_files.read(every / name)):
                yield name
    if Run(one).config != Run(whole).config:
        yield "config.json"
    a, b = (metrics.MetricReader(folder / "progress.csv").read() for folder in (one, whole))
    measured = ["seconds", "steps_per_second", "memory_mb"]
    if not a.drop(columns=measured).equals(b.drop(columns=measured)):
        yield "progress.csv"


def noticed(run_folder: Path, whole: Path, name: str, offset: int) -> tuple[str, str]:
    """Whether damage to a file of a stopped run is noticed by a resume, which then does all the same steps."""
    from ddpm.checkpoints import checkpoint_files
    from ddpm.runs.runs import Run
    from ddpm.training import resume

    run = Run(run_folder)
    newest = Run(whole.with_name("stopped") / "runs" / "new").checkpoints()[-1]
    before = Run(whole.with_name("stopped") / "runs" / "new").config
    ours = name in newest.files or name == f"saves/{newest.step:06d}.json"
    matters = ours or name == "config.json" or (name == "progress.csv" and offset < newest.log_bytes)
    resume.restore_settings(run)
    if name == "config.json" and Run(run_folder).config == before:
        return "well", ""
    found = resume.newest(Run(run_folder))
    if matters and not found.notice:
        return "unnoticed", ""
    if ours and (found.checkpoint is None or found.checkpoint.step == newest.step):
        return "lost", "the damaged set is gone on from"
    return ("well", "") if found.checkpoint and not checkpoint_files.fault(found.checkpoint) else ("lost", "")
