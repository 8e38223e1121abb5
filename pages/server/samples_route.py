"""Samples of a run for the browser: what is known of them as JSON, and each image as a PNG.

    samples/RUN/JOB                     {count, width, height, seeds, classes, active, revision, ...}
    samples/RUN/JOB/images/NUMBER       one image; ?times=4 enlarges it, each pixel to 4 x 4
    samples/RUN/JOB/given/NUMBER        the input image of a task; small: the low-resolution one
    samples/RUN/JOB/preview/0           the state of all images while they are sampled

Everything is read through the folder of the job, which follows no link; an image is decoded, and encoded anew.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes, resolve, summary
from ddpm.runs import runs
from ddpm.runs.jobs import ACTIVE
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import untrusted
from pages.ui.components import thumbnails
from pages.ui.frame import layout

PARTS = ("images", "given", "small")
MOST_TIMES = 64
MOST_SIDE = 4096  # pixels of an enlarged image
MOST_DESCRIBED = 4096  # images whose seed and class are listed


class Missing(Exception):
    """There is no such run, job or image."""


def about(request: Request) -> Response:
    """Answers with what is known of the samples of a job; {"same": true} if that is still revision ?since=."""
    run, job = _job(request)
    facts = describe(run, job)
    if request.query_params.get("since") == facts["revision"]:
        return JSONResponse({"same": True, "revision": facts["revision"]}, headers={"cache-control": "no-store"})
    return JSONResponse(facts, headers={"cache-control": "no-store"})


def image(request: Request) -> Response:
    """Answers with one image as a PNG."""
    _, job = _job(request)
    part, number, times = request.path_params["part"], request.path_params["number"], _times(request)
    if part not in (*PARTS, "preview") or not _is_count(number, 9):
        raise Missing
    path = job.preview if part == "preview" else job.folder / part / f"{int(number):05d}.png"
    loaded = thumbnails.load(job, path)
    if max(loaded.size) * times > MOST_SIDE:
        times = max(1, MOST_SIDE // max(loaded.size))
    content = thumbnails.png(thumbnails.repeated(loaded, times))
    forever = "v" in request.query_params  # the address changes with the content
    kept = "private, max-age=31536000, immutable" if forever else "no-store"
    return Response(content, media_type="image/png", headers={"cache-control": kept})


def describe(run: Run, job: SampleJob) -> dict[str, Any]:
    """What the grid needs to know of the samples of a job."""
    active = job.state() in ACTIVE
    sample = job.sample_config
    model = run.config.model
    files = job.images if not active else []
    beside = "given" if job.given_images else "small" if model.super_res and sample else ""
    facts = {
        "active": active,
        "count": len(files),
        "width": model.image_size,
        "height": model.image_size,
        "beside": beside,
        "besides": len(job.given_images) if beside == "given" else max(1, len(files)),
        "names": column_names(job, run.config, len(files)),
        "seeds": seeds(sample, len(files)) if sample else [],
        "classes": class_names(run.config, sample, len(files)) if sample else [],
        "settings": summary.describe(run.config, sample) if sample else "",
        "stem": f"{run.name}-{job.name}",
        "version": _changed(job, files[-1]) if files else "0",
        "preview": _changed(job, job.preview) if job.has(job.preview) else "",
        "error": "",
    }
    facts["revision"] = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return facts


def seeds(sample: SampleConfig, count: int) -> list[int]:
    """The seed of each image; none where an image has no single one."""
    if sample.task in ("interpolate", "invert"):
        return []
    return [sample.seed + k for k in range(min(count, MOST_DESCRIBED))]


def class_names(config: Config, sample: SampleConfig, count: int) -> list[str]:
    """The class of each image; none for a model without classes, or where they came with low-resolution images."""
    if not config.model.class_cond or (config.model.super_res and not sample.classes):
        return []
    known = classes.names(config)
    try:
        labels = resolve.resolve_labels(config, sample)
    except UserError:  # of a file of other settings
        return []
    if labels is None:
        return []
    return [known[k] if k < len(known) else str(k) for k in labels[: min(count, MOST_DESCRIBED)]]


def column_names(job: SampleJob, config: Config, count: int) -> list[str]:
    """The class of each column of the grid; empty where the columns are not classes."""
    sample = job.sample_config
    if sample is None or sample.task != "draw" or not count or job.has(job.pairs) or not config.model.class_cond:
        return []
    try:
        labels = np.resize(classes.parse_classes(config, sample.classes), count)
    except UserError:  # of a file of other settings
        return []
    known = classes.names(config)
    return [known[k] if k < len(known) else str(k) for k in labels[: classes.columns(labels) or 0]]


def _job(request: Request) -> tuple[Run, SampleJob]:
    name, job_name = request.path_params["run"], request.path_params["job"]
    run = runs.find_run(layout.runs_dir(), name)
    if not untrusted.is_part(job_name):
        raise Missing
    job = SampleJob(run.folder / "samples" / job_name, depth=2)
    if not job.has(job.folder / "status.json"):
        raise Missing
    return run, job


def _times(request: Request) -> int:
    text = request.query_params.get("times", "1")
    if not _is_count(text, 2) or not 1 <= int(text) <= MOST_TIMES:
        raise Missing
    return int(text)


def _is_count(text: str, digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits


def _changed(job: SampleJob, path: Path) -> str:
    try:
        return str(job.changed_at(path))
    except FileNotFoundError:  # it has just been replaced or removed
        return "0"


def _answered(action: Any) -> Any:
    """Turns what is missing, damaged or a link into an answer with a sentence."""

    def answer(request: Request) -> Response:
        try:
            return action(request)
        except (Missing, FileNotFoundError, NotADirectoryError):
            return _refused("There are no such samples.", 404)
        except UserError as error:
            return _refused(str(error), 404 if error.code in ("unknown-run", "bad-name") else 422)
        except OSError as error:
            return _refused(f"The samples cannot be read ({error.strerror or error}).", 422)

    return answer


def _refused(sentence: str, status: int) -> Response:
    return PlainTextResponse(sentence, status, headers={"cache-control": "no-store"})


ROUTES = [
    Route("/samples/{run}/{job}", _answered(about), methods=["GET"]),
    Route("/samples/{run}/{job}/{part}/{number}", _answered(image), methods=["GET"]),
]
