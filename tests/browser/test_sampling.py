"""Every control of sampling in a real browser, on the model that comes with the program."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from dashboard import wait_until_idle
from PIL import Image
from playwright.sync_api import Locator, Page, TimeoutError, expect
from waiting import until, until_finished

from ddpm.runs import runs
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.storage import images

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def run(page: Page, server) -> Run:  # type: ignore[no-untyped-def]
    """The example, as the Sample page offers it to somebody without runs."""
    page.goto(server.address("sample"))
    page.get_by_role("button", name="Sample from the example model").click()
    expect(page.get_by_text("This is the included example model")).to_be_visible()
    found = runs.find_run(server.runs_dir, "example")
    (job,) = until(found.sample_jobs)
    until_finished(job)
    expect(page.get_by_role("button", name="Grid (PNG)")).to_be_visible()
    return found


def field(page: Page, name: str) -> Locator:
    return page.locator(f".st-key-sample-{name}")


def choose(page: Page, name: str, option: str) -> None:
    """Pick from a selectbox, whose list closes where the page reruns just then."""
    wanted = page.get_by_role("option", name=option, exact=True)
    for _ in range(5):
        wait_until_idle(page)
        field(page, name).locator("input").click()
        with contextlib.suppress(TimeoutError):
            wanted.click(timeout=10_000)
            return
    raise AssertionError(f"no option {option!r} in {name}")


def fill(page: Page, name: str, value: str) -> None:
    box = field(page, name).locator("input")
    box.fill(value)
    box.press("Enter")


def slide(page: Page, name: str, key: str, times: int) -> None:
    wait_until_idle(page)  # a page that reruns may move the field from under the keys
    thumb = field(page, name).locator("input").first
    thumb.focus()
    for _ in range(times):
        thumb.press(key)


def draw(page: Page, run: Run) -> SampleJob:
    """Presses Sample, and waits for the images."""
    before = {job.name for job in run.sample_jobs()}
    button = page.get_by_role("button", name=re.compile("^Sample Shortcut"))
    expect(button).to_have_count(1)  # a stale twin may stand there for an instant
    expect(button).to_be_enabled()
    wait_until_idle(page)  # what was typed last is on its way
    expect(button).to_have_count(1)
    button.click()
    new = until(lambda: [job for job in run.sample_jobs() if job.name not in before])
    until_finished(new[0])
    expect(page.get_by_role("button", name="Grid (PNG)")).to_be_visible()
    wait_until_idle(page)  # what stood there before is gone
    return new[0]


def reported(job: SampleJob) -> dict:  # type: ignore[type-arg]
    return job.settings["sample"]


def task(page: Page, name: str) -> None:
    field(page, "task").get_by_text(name, exact=True).click()


def test_samplers_and_what_steers_them(page: Page, run: Run) -> None:
    first = draw(page, run)  # a newcomer's first press
    assert (reported(first)["sampler"], reported(first)["steps"], reported(first)["num_samples"]) == ("unipc-2", 10, 16)

    # It is taken home with every pixel enlarged.
    page.locator(".st-key-download_times").get_by_text("4×", exact=True).click()
    wait_until_idle(page)
    with page.expect_download() as got:
        page.get_by_role("button", name="Grid (PNG)").click()
    with Image.open(io.BytesIO(Path(got.value.path()).read_bytes())) as large, Image.open(first.grid) as small:
        assert large.size == (4 * small.width, 4 * small.height)
        assert large.crop((80, 80, 84, 84)).getcolors() == [(16, small.convert(large.mode).getpixel((20, 20)))]

    fill(page, "num_samples", "2")
    choose(page, "sampler", "DDIM")
    slide(page, "eta", "ArrowRight", 10)
    slide(page, "guidance_scale", "ArrowLeft", 5)
    page.get_by_text("More", exact=True).first.click()
    choose(page, "spacing", "quadratic")
    choose(page, "clip", "Dynamic threshold")
    field(page, "analytic_first_step").get_by_text("Analytic first step").click()
    job = draw(page, run)
    found = reported(job)
    assert (found["sampler"], found["eta"], found["guidance_scale"]) == ("ddim", 0.5, 1.5)
    assert (found["spacing"], found["analytic_first_step"]) == ("quadratic", True)
    assert found["dynamic_threshold"] > 0
    assert found["seed"] == reported(first)["seed"] + 16  # something new with every press

    choose(page, "sampler", "Heun")
    expect(field(page, "eta")).to_have_count(0)
    expect(field(page, "churn")).to_be_visible()

    # What is impossible or missing is said, and cannot be pressed: an emptied number is not a 0.
    fill(page, "num_samples", "")
    expect(page.get_by_test_id("stMain").get_by_text("Images is empty").first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Sample Shortcut"))).to_be_disabled()
    fill(page, "num_samples", "0")
    expect(page.get_by_test_id("stMain").get_by_text("num_samples is 0").first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Sample Shortcut"))).to_be_disabled()


def test_the_fold_and_what_one_sampler_takes_alone(page: Page, run: Run) -> None:
    fill(page, "num_samples", "2")
    slide(page, "guidance_scale", "ArrowLeft", 5)
    page.get_by_text("More", exact=True).first.click()
    choose(page, "precision", "fp32")
    choose(page, "clip", "Off")
    fill(page, "batch_size", "1")
    slide(page, "guidance_interval", "ArrowRight", 4)
    field(page, "denoise_to_zero").get_by_text("Denoise to zero").click()
    choose(page, "sampler", "Heun")
    fill(page, "churn", "12")
    found = reported(draw(page, run))
    assert (found["sampler"], found["churn"], found["guidance_scale"]) == ("heun", 12.0, 1.5)
    assert (found["precision"], found["batch_size"], found["clip_denoised"]) == ("fp32", 1, False)
    assert (found["guidance_interval"], found["denoise_to_zero"]) == ("4-999", False)
    page.get_by_text("Shell command").first.click()
    expect(page.get_by_text("ddpm sample --model_path").first).to_be_visible()

    fill(page, "timestep_respacing", "10,5")
    choose(page, "sampler", "DDPM")
    choose(page, "variance", "Small (the posterior's)")
    found = reported(draw(page, run))
    assert (found["timestep_respacing"], found["steps"], found["variance"]) == ("10,5", 0, "fixed_small")

    choose(page, "variance", "Analytic")
    expect(page.get_by_text("Estimated once from the run's data")).to_be_visible()
    found = reported(draw(page, run))
    assert (found["sampler"], found["variance"]) == ("ddpm", "analytic")
    assert (run.folder / "analytic_ema_0.99_016480.json").exists()


def test_history_and_settings_from_a_image(page: Page, run: Run) -> None:
    before = [job.name for job in run.sample_jobs()]
    fill(page, "num_samples", "2")
    fill(page, "seed", "5")
    one = draw(page, run)
    expect(field(page, "seed").locator("input")).to_have_value("5")  # a seed that was typed is kept
    fill(page, "seed", "9")
    other = draw(page, run)

    page.locator(f".st-key-note_of_{run.name}-{one.name} button").first.click()
    note = page.get_by_label("Note").last
    note.fill("the better one")
    note.press("Enter")
    expect(page.get_by_text("the better one").first).to_be_visible()
    assert one.note == "the better one"
    page.keyboard.press("Escape")

    for job in (one, other):
        page.locator(f"[class*=st-key-compare_{run.name}-{job.name}] label").click()
    expect(page.get_by_test_id("stTable").get_by_text("Seed", exact=True)).to_be_visible()

    page.locator(f".st-key-delete_{run.name}-{other.name} button").first.click()
    page.locator(".st-key-drawing_sure button").click()
    expect(page.locator(".st-key-drawing_undo button")).to_be_visible()
    assert [job.name for job in run.sample_jobs()] == [one.name, *before]
    page.locator(".st-key-drawing_undo button").click()
    expect(page.locator(f".st-key-drawn_{run.name}-{other.name}")).to_be_visible()
    until(lambda: len(run.sample_jobs()) == 2 + len(before))  # its card may still be the one from before it was deleted

    # The second image of the first sampling, taken home and brought back, puts its own settings into the form.
    page.get_by_text("Load settings from an image").click()
    page.locator("input[type=file]").last.set_input_files(str(one.images[1]))
    expect(field(page, "seed").locator("input")).to_have_value("6")
    again = draw(page, run)
    # It was the second of a batch and is the first of one now: in bf16, where the processor has it, that is rounded
    # otherwise.
    first, second = (np.asarray(Image.open(path)).astype(int) for path in (again.images[0], one.images[1]))
    assert np.abs(first - second).max() <= 2


def test_interpolate_vary_inpaint_and_invert(page: Page, run: Run, tmp_path: Path) -> None:
    fill(page, "num_samples", "2")
    base = draw(page, run)

    task(page, "Interpolate")
    fill(page, "between", "4")
    strip = draw(page, run)
    assert reported(strip)["task"] == "interpolate"
    assert len(strip.images) == 4

    photo = tmp_path / "photo.png"
    images.save_png(photo, np.tile(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], (60, 1, 3)))
    task(page, "Vary")
    field(page, "picture_from").get_by_text("Upload").click()
    page.locator(".st-key-sample-picture_upload input[type=file]").set_input_files(str(photo))
    expect(page.get_by_text("Scaled from 90 x 60 to 32 x 32 pixels")).to_be_visible()
    fill(page, "variations", "2")
    slide(page, "strength", "ArrowLeft", 4)
    varied = draw(page, run)
    assert (reported(varied)["task"], reported(varied)["strength"]) == ("vary", pytest.approx(0.6))
    assert varied.pairs.exists()

    task(page, "Inpaint")
    field(page, "picture_from").get_by_text("Earlier samples").click()
    expect(page.get_by_alt_text("Image 1", exact=True)).to_be_visible()
    wait_until_idle(page)  # the canvas has moved down, and shows another image
    canvas = page.locator("[class*=st-key-sample-canvas] canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=6)
    page.mouse.up()
    expect(page.get_by_text(re.compile("% painted"))).to_be_visible()
    filled = draw(page, run)
    mask = np.asarray(Image.open(filled.mask)) > 127
    assert 0.5 < mask.mean() < 0.6  # one half at first, and what was painted
    given, new = (np.asarray(Image.open(p)) for p in (next(iter(sorted(filled.given.glob("*.png")))), filled.images[0]))
    assert np.array_equal(given[~mask], new[~mask]), "what was not painted stays"
    assert not np.array_equal(given[mask], new[mask])

    white = tmp_path / "mask.png"
    images.save_png(white, np.repeat(np.array([0, 255], np.uint8), 16)[None, :, None].repeat(32, axis=0))
    field(page, "mask_from").get_by_text("Upload").click()
    page.locator(".st-key-sample-mask_upload input[type=file]").set_input_files(str(white))
    half = draw(page, run)
    assert (np.asarray(Image.open(half.mask)) > 127).mean() == 0.5

    task(page, "Invert")
    back = draw(page, run)
    error = json.loads((back.folder / "result.json").read_text())["mean"]
    pair = [
        np.asarray(Image.open(p)).astype(float) for p in (next(iter(sorted(back.given.glob("*.png")))), back.images[0])
    ]
    assert error == pytest.approx(np.sqrt(np.square(pair[0] - pair[1]).mean()), rel=0.01)
    expect(page.get_by_text("Reconstruction error")).to_be_visible()
    assert base.images


def test_frontier_and_microscope(page: Page, server, run: Run) -> None:  # type: ignore[no-untyped-def]
    fill(page, "num_samples", "2")
    sampled = draw(page, run)

    page.goto(server.address("explore", run=run.name))
    page.get_by_text("Compare samplers", exact=True).click()
    fill_of(page, "frontier", "num_samples", "2")
    page.get_by_role("button", name=re.compile("^Compare")).click()
    (job,) = until(run.solver_benchmark_jobs)
    until_finished(job)
    expect(page.locator(".st-key-frontier_use button")).to_be_visible()
    wait_until_idle(page)
    for part in ("rail-fields", "rail-foot", "rail-result"):  # form, button with its estimate, and result
        expect(page.locator(f".st-key-{part}")).to_be_in_viewport(ratio=1 if part == "rail-foot" else 0.2)
    rows = job.result["rows"]
    assert rows
    with Image.open(job.sheet) as sheet:
        assert sheet.width > 400
    expect(page.get_by_role("button", name="Table (CSV)")).to_be_visible()  # the page knows that it is finished
    page.locator(".st-key-frontier_use button").click()
    expect(field(page, "sampler")).to_be_visible()

    page.goto(server.address("explore", run=run.name))
    page.get_by_text("Trajectory", exact=True).click()
    page.get_by_role("button", name=re.compile("^Trace")).click()
    (look,) = until(run.trajectory_jobs)
    until_finished(look)
    expect(page.get_by_role("button", name="GIF")).to_be_visible()
    seen = np.asarray(Image.open(look.folder / "picture.png"))
    assert np.abs(seen.astype(int) - np.asarray(Image.open(sampled.images[0])).astype(int)).max() <= 2, "the same image"
    slider = page.locator("[class*=st-key-microscope_call] input").first
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(page.get_by_text(re.compile(r"t = .* log SNR .* predicted x_start changes by"))).to_be_visible()
    with page.expect_download() as got:
        page.get_by_role("button", name="GIF").click()
    with Image.open(io.BytesIO(Path(got.value.path()).read_bytes())) as film:
        assert film.format == "GIF"
        assert film.n_frames == len(look.result["t"])  # type: ignore[attr-defined]


def fill_of(page: Page, form: str, name: str, value: str) -> None:
    box = page.locator(f".st-key-{form}-{name} input")
    box.fill(value)
    box.press("Enter")
