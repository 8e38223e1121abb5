"""The example: a small trained model that comes with the program, to sample from at once.

ddpm/assets/example is a run folder with only an average of the weights, in 8 bits, written by
`scripts/pack_example.py`.
"""

import shutil
from pathlib import Path

from ddpm.config.tasks import SampleConfig
from ddpm.errors import UserError
from ddpm.runs.exclusive import guard
from ddpm.runs.runs import Run
from ddpm.storage import files

ASSET = Path(__file__).parents[1] / "assets" / "example"
NAME = "example"
SAMPLE = SampleConfig(num_samples=16, steps=15, guidance_scale=3.0, seed=7)  # the guidance of its best samples


def provide(runs_dir: Path) -> Run:
    """Copies the example to `runs_dir`, unless it is there, and returns it as a run.

    Raises UserError if the folder cannot be written, or another file of that name exists.
    """
    folder = runs_dir / NAME
    if (folder / "config.json").exists():
        return Run(folder)
    with guard(runs_dir):
        if (folder / "config.json").exists():  # another page was faster
            return Run(folder)
        if folder.exists():
            raise UserError(
                f"{folder} exists and is not a run, so the example cannot be copied there: move it away.",
                code="already-exists",
            )
        building = files.temporary_path(folder)
        try:
            for path in sorted(ASSET.rglob("*")):
                if path.is_file():
                    files.copy(path, building / path.relative_to(ASSET))
            files.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return Run(folder)
