"""`ddpm data`: download a data set, or convert its archive, for training."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ddpm.cli import output, shared
from ddpm.cli.output import Output
from ddpm.config import validation
from ddpm.config.tasks import LsunConfig
from ddpm.data_sets import WRITING
from ddpm.errors import UserError
from ddpm.formatting import plural
from ddpm.runs.worker import Stopped


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser(
        "data",
        help="Download or convert a data set.",
        description="Download or convert a data set.",
        allow_abbrev=False,
    )
    sets = parser.add_subparsers(required=True, metavar="DATA")

    cifar10 = shared.add_command(
        sets, "cifar10", _cifar10, "CIFAR-10, downloaded or from its archive, to train on by name.", runs_dir=False
    )
    cifar10.add_argument("--archive", type=shared.path, metavar="FILE", help="its archive, if it is here already")
    cifar10.add_argument(
        "--folder",
        type=shared.path,
        metavar="DIR",
        help="also write cifar_train and cifar_test there, with files such as plane_00042.png",
    )
    _add_job(cifar10)

    lsun = shared.add_command(sets, "lsun", _lsun, "LSUN's lmdb database as a folder of PNG files.", runs_dir=False)
    lsun.add_argument("archive", type=shared.path, metavar="ARCHIVE", help="folder of the database, or its zip file")
    lsun.add_argument("folder", type=shared.path, metavar="FOLDER", help="where to write the images")
    shared.add_settings(lsun, LsunConfig, dashes=True)
    _add_job(lsun)

    imagenet = shared.add_command(
        sets,
        "imagenet64",
        _imagenet64,
        "ImageNet at 64 pixels as a folder of PNG files or as one .npz file.",
        runs_dir=False,
    )
    imagenet.add_argument(
        "archive",
        type=shared.path,
        nargs="+",
        metavar="ARCHIVE",
        help="zip files of train_data_batch_1.npz and so on, or a folder of these",
    )
    imagenet.add_argument("--part", choices=["train", "val"], default="train", help="which images (default: train)")
    target = imagenet.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--folder",
        type=shared.path,
        metavar="DIR",
        help="write LABEL_BATCH_NUMBER.png there; resumes after an interruption",
    )
    target.add_argument("--npz", type=shared.path, metavar="FILE", help="write one .npz file of all images")
    _add_job(imagenet)

    check = shared.add_command(
        sets,
        "check",
        _look,
        "Look at every image of a folder, an .npz file or tar shards, and list the broken ones.",
        runs_dir=False,
    )
    check.add_argument("path", metavar="PATH", help="the folder, the file or the shards")
    _add_job(check)

    index = shared.add_command(
        sets, "index", _index, "Make the index of tar shards, as the first training on them does.", runs_dir=False
    )
    index.add_argument("path", metavar="PATH", help="a folder of .tar files, or a pattern such as a-{000..099}.tar")
    _add_job(index)

    for command in (cifar10, lsun, imagenet):
        command.add_argument(
            "--md5", nargs="+", metavar="SUM", help="MD5 checksum that the archive must have, one for each"
        )


def _check(paths: Sequence[Path], sums: Sequence[str] | None) -> None:
    from ddpm.data import archives

    if sums is None:
        return
    if len(sums) != len(paths):
        raise UserError(
            f"--md5 gives {plural(len(sums), 'checksum')} for {plural(len(paths), 'archive')}: give one for each.",
            code="conflicting-settings",
        )
    for archive, md5 in zip(paths, sums, strict=True):
        with shared.progress_bar("checking", unit="B") as progress:
            archives.check_md5(archive, md5, progress)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--job", type=shared.path, metavar="FOLDER", help="folder for the status of this job, which the dashboard shows"
    )


Bar = Callable[[int, int], None]


@contextlib.contextmanager
def _reporting(options: argparse.Namespace) -> Iterator[Callable[[str, Bar], Bar]]:
    """Shows progress in the status of --job too, which may ask to stop: makes a bar's function one that does so."""
    with shared.status_of(options.job) as worker:

        def reported(doing: str, bar: Bar) -> Bar:
            def progress(done: int, total: int) -> None:
                bar(done, total)
                if worker:
                    worker.beat(message=doing, step=done, total_steps=total)
                    if "stop" in worker.poll_requests():
                        raise Stopped

            return progress

        yield reported
        if worker:
            worker.beat(message="")


def _cifar10(options: argparse.Namespace) -> Output:
    from ddpm.data import cifar10, download

    _check([options.archive] if options.archive else [], options.md5)
    with _reporting(options) as reported, shared.progress_bar("cifar10", unit="B") as progress:
        archive = options.archive or download.fetch_cifar10(reported("Downloading", progress))
        path = cifar10.import_archive(archive, reported("Unpacking", progress))
    if not options.folder:
        return Output({"path": path}, str(path))
    with shared.progress_bar("writing", unit="image") as progress:
        folders = list(cifar10.write_folders(options.folder, progress))
    return Output({"path": path, "folders": folders}, "\n".join(map(str, folders)))


def _look(options: argparse.Namespace) -> Output:
    from ddpm.config.fields import absolute
    from ddpm.data import checked, datasets
    from ddpm.planning import own_images

    with _reporting(options) as reported, shared.progress_bar("looking", unit="image") as progress:
        found = checked.check(absolute(options.path), reported("Looking at all images", progress))
    sizes = f", {min(found.sides)} to {max(found.sides)} pixels on the shorter side" if found.sides else ""
    lines = [f"{plural(found.total, 'image')}{sizes}, {found.broken:,} that cannot be read", *found.reasons]
    proposal = own_images.propose(datasets.describe(absolute(options.path)), min(found.sides, default=0))
    if proposal:
        lines.append(f"{proposal.sentence} Flags: {' '.join(proposal.flags)}")
    return Output(found._asdict() | {"preset": proposal.preset if proposal else ""}, "\n".join(lines))


def _index(options: argparse.Namespace) -> Output:
    from ddpm.config.fields import absolute
    from ddpm.data import datasets

    with _reporting(options) as reported, shared.progress_bar("indexing", unit="image") as progress:
        about = datasets.describe(absolute(options.path), reported("Making the index", progress))
    return Output({"path": options.path, "count": about.count, "classes": len(about.class_names)}, about.text)


def _lsun(options: argparse.Namespace) -> Output:
    from ddpm.data import lsun

    config = LsunConfig(**shared.given(options, LsunConfig))
    for problem in validation.limit_problems(config):
        raise UserError(problem.sentence, code=problem.code)
    _check([options.archive], options.md5)
    with (
        _reporting(options) as reported,
        shared.progress_bar("unpacking", unit="B") as unpacking,
        shared.progress_bar("writing", unit="image") as writing,
    ):
        unpacked, written = reported("Unpacking", unpacking), reported(WRITING, writing)
        lsun.write(options.archive, options.folder, config, unpacked, written)
    return Output({"path": options.folder}, str(options.folder))


def _imagenet64(options: argparse.Namespace) -> Output:
    from ddpm.data import imagenet64

    _check(options.archive, options.md5)
    with _reporting(options) as reported, shared.progress_bar("writing", unit="image") as progress:
        batches = imagenet64.find_batches(options.archive, options.part)
        if missing := imagenet64.missing(batches):
            output.say(f"Warning: {missing}", aside=True)
        if options.npz:
            imagenet64.write_npz(batches, options.npz, reported(WRITING, progress))
        else:
            imagenet64.write_folder(batches, options.folder, reported(WRITING, progress))
    path = options.npz or options.folder
    return Output({"path": path}, str(path))
