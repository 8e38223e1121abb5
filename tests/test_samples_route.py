"""What the server answers about samples: what is known of them, each image, and nothing beyond them."""

import asyncio
import dataclasses
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette

from ddpm.config.tasks import SampleConfig
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import files, images
from pages.server import samples_route
from pages.ui.results import sample_grid

pytestmark = pytest.mark.usefixtures("runs_here")

APP = Starlette(routes=samples_route.ROUTES)


def get(path: str, query: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a GET."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    with ThreadPoolExecutor(1) as threads:  # this thread may have a loop already, of a browser's tests
        answered = APP({**scope, "root_path": "", "http_version": "1.1"}, receive, send)  # type: ignore[arg-type]
        threads.submit(asyncio.run, answered).result()  # type: ignore[arg-type]
    start = sent[0]
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(part.get("body", b"") for part in sent[1:])


@pytest.fixture
def run(fake_run: Callable[..., Run]) -> Run:
    return fake_run("shapes", class_cond=True, num_classes=3, class_names=("circle", "<star>", "ring"))


def sampled(run: Run, count: int = 7, name: str = "20260102-030405", **settings: object) -> SampleJob:
    job = SampleJob(run.folder / "samples" / name)
    sample = SampleConfig(**{"num_samples": count, "steps": 10, "seed": 5, **settings})  # type: ignore[arg-type]
    files.write_json(job.folder / "settings.json", {"sample": dataclasses.asdict(sample)})
    for k in range(count):
        images.save_png(job.folder / "images" / f"{k:05d}.png", np.full((8, 8, 3), 10 * k, np.uint8))
    files.write_json(job.folder / "status.json", dataclasses.asdict(Status("finished", pid=1)))
    return job


def about(job: SampleJob, query: str = "") -> dict:
    status, _, body = get(f"/samples/{job.folder.parent.parent.name}/{job.name}", query)
    assert status == 200, body
    return json.loads(body)


def test_what_the_grid_needs_to_know(run: Run) -> None:
    job = sampled(run)
    found = about(job)
    assert (found["count"], found["width"], found["height"], found["active"]) == (7, 8, 8, False)
    assert found["seeds"] == list(range(5, 12))
    assert found["classes"] == ["circle", "<star>", "ring"] * 2 + ["circle"]
    assert found["names"] == ["circle", "<star>", "ring"]
    assert about(job, f"since={found['revision']}") == {"same": True, "revision": found["revision"]}
    images.save_png(job.folder / "images" / "00007.png", np.zeros((8, 8, 3), np.uint8))
    assert about(job, f"since={found['revision']}")["count"] == 8


@pytest.mark.parametrize(
    ("settings", "names", "classes"),
    [
        (dict(classes="1-2"), ["<star>", "ring"], ["<star>", "ring"] * 3 + ["<star>"]),
        (dict(classes="7"), [], []),  # of other settings
        (dict(task="interpolate", classes="ring,circle"), [], ["ring"] * 7),
    ],
)
def test_the_classes(run: Run, settings: dict, names: list[str], classes: list[str]) -> None:
    found = about(sampled(run, **settings))
    assert (found["names"], found["classes"]) == (names, classes)
    assert bool(found["seeds"]) == ("task" not in settings)


def test_an_image_and_the_same_enlarged(run: Run) -> None:
    job = sampled(run)
    path = f"/samples/shapes/{job.name}/images/3"
    status, headers, body = get(path, "v=1")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert "immutable" in headers["cache-control"]
    assert (np.asarray(Image.open(io.BytesIO(body))) == 30).all()
    status, headers, body = get(path, "times=4")
    assert headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(body)).size == (32, 32)
    assert get(path, "times=64")[0] == 200
    assert {get(path, f"times={wrong}")[0] for wrong in ("0", "65", "-1", "1e9", "", "%C2%B2", "999999")} == {404}


def test_input_images_stand_beside_theirs(run: Run) -> None:
    job = sampled(run, task="vary", picture="x.png")
    for k in range(2):
        images.save_png(job.given / f"{k:05d}.png", np.full((8, 8, 3), 200 + k, np.uint8))
    found = about(job)
    assert (found["beside"], found["besides"], found["names"]) == ("given", 2, [])
    _, _, body = get(f"/samples/shapes/{job.name}/given/1")
    assert np.asarray(Image.open(io.BytesIO(body)))[0, 0, 0] == 201


def test_nothing_beyond_the_samples_is_answered(run: Run, tmp_path: Path) -> None:
    job = sampled(run)
    secret = tmp_path / "secret.png"
    images.save_png(secret, np.zeros((8, 8, 3), np.uint8))
    (job.folder / "images" / "00009.png").symlink_to(secret)
    outside = run.folder / "samples" / "linked"
    outside.symlink_to(tmp_path)
    (job.folder / "images" / "00010.png").write_bytes(b"no image")
    base = f"/samples/shapes/{job.name}"
    answers = {
        "/samples/nothing/there": 404,
        "/samples/shapes/20200101-000000": 404,
        "/samples/../shapes": 404,
        f"/samples/shapes/../{job.name}": 404,
        "/samples/shapes/linked": 422,
        f"{base}/images/20": 404,
        f"{base}/images/9": 422,
        f"{base}/images/10": 422,
        f"{base}/images/-1": 404,
        f"{base}/images/{'9' * 5000}": 404,
        f"{base}/noise/1": 404,
        f"{base}/../images/1": 404,
        f"{base}/preview/0": 404,  # it was not sampled in our sight
    }
    assert {path[:90]: get(path)[0] for path in answers} == {path[:90]: code for path, code in answers.items()}


def test_what_the_browser_asks_for_is_judged() -> None:
    right = {"kind": "vary", "job": "20260102-030405", "number": 3, "stamp": 1}
    assert sample_grid.read(right) == sample_grid.Action("vary", "20260102-030405", 3)
    for wrong in ({"kind": "delete"}, {"job": 3}, {"number": -1}, {"number": "3"}, {"number": True}, {"number": 10**9}):
        assert sample_grid.read({**right, **wrong}) is None
    assert sample_grid.read("vary") is None
    assert sample_grid.read(None) is None
