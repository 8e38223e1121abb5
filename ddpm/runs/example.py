"""The example: a small trained model that comes with the program, so that a newcomer can draw at once.  No torch.

ddpm/assets/example is a run folder with the average's weights alone, in float16.  `scripts/pack_example.py` makes it.
"""

import secrets
import shutil
from pathlib import Path

from ddpm.errors import UserError
from ddpm.runs.jobs import guard
from ddpm.runs.runs import Run
from ddpm.storage import files

ASSET = Path(__file__).parents[1] / "assets" / "example"
NAME = "example"


def provide(runs_dir: Path) -> Run:
    """The example as a run like any other: copied whole or not at all, the first time.

    Raises UserError where the folder cannot be written, or a file of that name is in the way.
    """
    folder = runs_dir / NAME
    if (folder / "config.json").exists():
        return Run(folder)
    with guard(runs_dir):
        if (folder / "config.json").exists():  # another page was faster
            return Run(folder)
        if folder.exists():
            raise UserError(f"{folder} is in the way of the example, and no run: move it away.", code="already-exists")
        building = runs_dir / f"{files.TEMPORARY}{secrets.token_hex(4)}"
        try:
            for path in sorted(ASSET.rglob("*")):
                if path.is_file():
                    files.copy(path, building / path.relative_to(ASSET))
            files.rename(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return Run(folder)
