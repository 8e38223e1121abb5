"""Renames runs."""

import logging

from ddpm.errors import UserError
from ddpm.runs import in_use, run_names, trash
from ddpm.runs.exclusive import guard
from ddpm.runs.runs import Run

log = logging.getLogger("ddpm")


def rename_run(run: Run, name: str) -> Run:
    """Gives the folder of a run another name, and returns the run there; with the same name nothing is done.

    Raises UserError for a name that is not valid or taken, for a run that no longer exists, and while a process works
    in it.  What the files of the run say of themselves stays: commands in settings of earlier results name the run as
    it was called then.  Samples of it in the bin go back to it under its new name.
    """
    if name == run.name:
        return run
    run_names.check_name(name)
    with guard(run.folder.parent):
        target = run.folder.with_name(name)
        if not run.folder.is_dir():
            raise UserError(f"There is no run {run.name} any more: choose another.", code="not-found")
        if target.exists() and not (target.samefile(run.folder)):  # a disk may not tell capitals from small letters
            raise UserError(f"{target} exists already: choose another name.", code="already-exists")
        in_use.check_idle(run, "renaming it")
        in_use.move(run.folder, target, "renamed")
        try:
            trash.follow(run.folder.parent, run.name, name)
        except (UserError, OSError) as error:  # it is renamed
            log.warning("Samples of %s in the bin cannot be restored to %s: %s", run.name, name, error)
    return Run(target)
