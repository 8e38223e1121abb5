"""`ddpm data`: fetch a data set and prepare it for training."""

import argparse
from pathlib import Path
from typing import Any

from ddpm.commands import options as shared


def add(commands: Any) -> None:
    prepare = shared.command(commands, "data", _data, "Fetch a data set.", runs_dir=False)
    prepare.add_argument("name", choices=["cifar10"])
    prepare.add_argument("--archive", type=Path, metavar="FILE", help="the archive, where it is here already")


def _data(options: argparse.Namespace) -> None:
    from ddpm import download

    with shared.bar(options.name, unit="B") as progress:
        archive = options.archive or download.fetch_cifar10(progress)
        path = download.import_cifar10(archive, progress)
    print(path)
