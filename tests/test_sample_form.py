"""The form of the Sample page: every task, every sampler, and settings that come back as they went in."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import button, open_page, said
from PIL import Image
from streamlit.testing.v1 import AppTest

from ddpm.config.tasks import FEW_STEPS, SampleConfig
from ddpm.planning import guidance, summary, timesteps
from ddpm.runs import launch, manifests
from ddpm.runs.jobs import Status
from ddpm.runs.results import SampleJob
from ddpm.runs.runs import Run
from ddpm.runs.worker import Worker
from ddpm.solvers import SOLVERS
from ddpm.storage import files, images
from pages.ui.components import mask_canvas, thumbnails
from pages.ui.forms import inputs_form, sampling_form
from pages.ui.results import sample_actions, sample_grid
from pages.ui.results.sample_history import key_of

pytestmark = pytest.mark.usefixtures("runs_here")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[SampleConfig]:
    """What samples are started with; none really is."""
    found: list[SampleConfig] = []

    def start(run: Run, sample: SampleConfig) -> SampleJob:
        found.append(sample)
        return SampleJob(run.folder / "samples" / "20260102-030405")

    monkeypatch.setattr("ddpm.runs.launch.start_sampling", start)
    return found


@pytest.fixture
def run(fake_run: Callable[..., Run]) -> Run:
    """Classes, guidance and a thousand timesteps; images of 8 x 8 pixels."""
    return fake_run(
        "shapes",
        diffusion_steps=1000,
        class_cond=True,
        cond_drop_prob=0.1,
        num_classes=3,
        class_names=("circle", "star", "ring"),
    )


def earlier(run: Run, sample: SampleConfig, name: str = "20260102-030405", count: int = 3) -> SampleJob:
    """A sampling as `ddpm sample` leaves it."""
    job = SampleJob(run.folder / "samples" / name)
    size = run.config.model.image_size
    files.write_json(job.folder / "settings.json", dict(sample=dataclasses.asdict(sample), command="ddpm sample"))
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        images.save_png(job.folder / "images" / f"{k:05d}.png", image)
    images.save_png(job.grid, images.grid(pixels))
    status = Status("finished", step=10, total_steps=10, steps_per_second=5.0, pid=1)
    files.write_json(job.folder / "status.json", dataclasses.asdict(status))
    return job


def image(path: Path, size: tuple[int, int] = (8, 8)) -> str:
    files.write_bytes(path, thumbnails.png(Image.new("RGB", size, (200, 30, 60))))
    return str(path)


def mask(path: Path, size: int = 8) -> str:
    pixels = np.zeros((size, size), np.uint8)
    pixels[: size // 2] = 255
    images.save_png(path, pixels)
    return str(path)


def sampled(at: AppTest, asked: list[SampleConfig]) -> SampleConfig:
    """What a press on Draw asks for."""
    assert not button(at, "Sample").disabled, said(at)
    button(at, "Sample").click().run()
    assert not at.exception, at.exception
    return asked[-1]


def shown(at: AppTest) -> set[str]:
    """The labels of all fields."""
    kinds = (
        "selectbox",
        "select_slider",
        "slider",
        "number_input",
        "text_input",
        "toggle",
        "multiselect",
        "button_group",
    )
    return {element.label for kind in kinds for element in getattr(at, kind, at.get(kind))}


def test_the_first_sampling_is_a_click(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    wanted = dict(weights="ema_0.9", guidance_scale=guidance.USUAL)
    assert sampled(at, asked) == dataclasses.replace(sampling_form.FIRST, **wanted)  # type: ignore[arg-type]
    assert "10 model evaluations per image" in said(at)
    assert sampling_form.FIRST.sampler == FEW_STEPS
    assert asked[0].batch_size == 0


@pytest.mark.parametrize("name", SOLVERS)
def test_each_sampler_shows_what_it_takes(name: str, run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.sampler").set_value(name).run()
    assert SOLVERS[name].words in said(at)
    fields = {"eta": "ddim", "Churn": "heun", "Variance": "ddpm"}
    assert {label for label in fields if label in shown(at)} == {label for label, of in fields.items() if of == name}
    assert sampled(at, asked).sampler == name


def test_a_learned_variance_leaves_no_choice(fake_run: Callable[..., Run]) -> None:
    fake_run("learned", learn_sigma=True)
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.sampler").set_value("ddpm").run()
    assert "Variance" not in shown(at)


def test_the_analytic_variance_is_explained(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.sampler").set_value("ddpm").run()
    at.selectbox(key="sample.variance").set_value("analytic").run()
    assert "Estimated once from the run's data" in said(at)
    assert sampled(at, asked).variance == "analytic"


def test_guidance(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.slider(key="sample.guidance_scale").set_value(1.0).run()
    assert at.slider(key="sample.guidance_interval").disabled  # nothing is guided
    at.button_group(key="sample.task").set_value("invert").run()
    at.button_group(key="sample.task").set_value("draw").run()
    assert at.slider(key="sample.guidance_scale").value == guidance.USUAL
    at.button_group(key="sample.task").set_value("invert").run()
    assert at.slider(key="sample.guidance_scale").value == 1.0
    at.button_group(key="sample.task").set_value("draw").run()
    at.slider(key="sample.guidance_scale").set_value(2.5).run()
    at.slider(key="sample.guidance_interval").set_value((100, 800)).run()
    sample = sampled(at, asked)
    assert (sample.guidance_scale, sample.guidance_interval) == (2.5, "100-800")
    at.slider(key="sample.guidance_interval").set_value((0, 999)).run()
    assert sampled(at, asked).guidance_interval == ""


@pytest.mark.parametrize(("classes", "why"), [(True, "class dropout"), (False, "class-conditional model")])
def test_a_run_that_cannot_be_guided_says_why(
    fake_run: Callable[..., Run], asked: list[SampleConfig], classes: bool, why: str
) -> None:
    fake_run("plain", class_cond=classes, num_classes=2 if classes else 0)
    at = open_page("pages/sample.py")
    field = at.slider(key="sample.no_guidance")
    assert field.disabled
    assert why in field.help
    assert sampled(at, asked).guidance_scale is None


def test_clipping(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.clip").set_value("off").run()
    assert not sampled(at, asked).clip_denoised
    at.selectbox(key="sample.clip").set_value("dynamic").run()
    at.slider(key="sample.dynamic_threshold").set_value(0.98).run()
    sample = sampled(at, asked)
    assert (sample.clip_denoised, sample.dynamic_threshold) == (True, 0.98)


def test_what_contradicts_is_reported_and_keeps_from_sampling(run: Run) -> None:
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.sampler").set_value("heun")
    at.select_slider(key="sample.steps").set_value(1)
    at.toggle(key="sample.denoise_to_zero").set_value(False).run()
    assert "too few for" in said(at)
    assert button(at, "Sample").disabled
    assert "too few for" in button(at, "Sample").help


def test_all_timesteps_and_a_respacing(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.selectbox(key="sample.sampler").set_value("ddpm")
    at.select_slider(key="sample.steps").set_value(0).run()
    assert "1,000 model evaluations per image" in said(at)
    assert (sampled(at, asked).steps, asked[-1].spacing) == (0, "auto")
    at.text_input(key="sample.timestep_respacing").set_value("10,15,20").run()
    assert at.select_slider(key="sample.steps").disabled
    assert "45 model evaluations per image" in said(at)
    assert (sampled(at, asked).steps, asked[-1].timestep_respacing) == (0, "10,15,20")


# Tasks


TASK_FIELDS = {
    "draw": {"Count", "Seed"},
    "interpolate": {"Seed", "Last seed"},
    "vary": {"Seed", "Strength", "Input image"},
    "inpaint": {"Seed", "Input image", "Resampling", "Jump length (steps)"},
    "invert": {"Input image"},
}


@pytest.mark.parametrize("task", TASK_FIELDS)
def test_each_task_shows_what_belongs_to_it(task: str, run: Run) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value(task).run()
    everything = set().union(*TASK_FIELDS.values())
    assert shown(at) & everything == TASK_FIELDS[task]
    assert ("Sampler" in shown(at)) == (task != "invert")
    if task in inputs_form.TASKS:
        assert "No input image is selected yet" in said(at)
        assert button(at, "Sample").disabled


def test_from_seed_to_seed(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("interpolate").run()
    at.number_input(key="sample.seed").set_value(3)
    at.number_input(key="sample.to_seed").set_value(4)
    at.number_input(key="sample.between").set_value(6).run()
    sample = sampled(at, asked)
    assert (sample.task, sample.seed, sample.to_seed, sample.num_samples) == ("interpolate", 3, 4, 6)


def test_an_uploaded_image_is_fitted_and_kept(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("vary").run()
    large = Image.new("RGB", (40, 32), (10, 200, 30))
    at.get("file_uploader")[0].set_value([("cat.png", thumbnails.png(large), "image/png")]).run()
    assert "Scaled from 40 x 32 to 8 x 8 pixels, cropped at the centre." in said(at)
    at.slider(key="sample.strength").set_value(0.3).run()
    sample = sampled(at, asked)
    assert sample.strength == 0.3
    path = Path(sample.picture)
    assert path.parent.parent == (run.folder / "uploads").absolute()
    assert (np.asarray(Image.open(path)) == images.prepare(large, 8, 3)).all()
    assert "1 network" not in said(at)
    at.get("file_uploader")[0].set_value([("cat.png", b"no picture", "image/png")]).run()
    assert "is not an image" in said(at)
    assert button(at, "Sample").disabled


def test_an_earlier_sampling_is_begun_with(run: Run, asked: list[SampleConfig]) -> None:
    job = earlier(run, SampleConfig(num_samples=3))
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("invert").run()
    at.button_group(key="sample.picture_from").set_value("drawn").run()
    at.button(key="number_2").click().run()
    sample = sampled(at, asked)
    assert sample.picture == str(job.images[2].absolute())
    assert (sample.task, sample.sampler, sample.num_samples) == ("invert", "ddim", 1)


@pytest.mark.slow
def test_a_path_to_images(run: Run, asked: list[SampleConfig], tmp_path: Path) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("vary").run()
    at.button_group(key="sample.picture_from").set_value("path").run()
    at.text_input(key="sample.picture_path").set_value(str(tmp_path / "nowhere.png")).run()
    assert "There is no folder or file" in said(at)
    right = image(tmp_path / "right.png")
    at.text_input(key="sample.picture_path").set_value(right).run()
    assert sampled(at, asked).picture == right
    at.text_input(key="sample.picture_path").set_value(image(tmp_path / "large.png", (20, 20))).run()
    assert "Scaled from 20 x 20 to 8 x 8 pixels." in said(at)
    assert Image.open(sampled(at, asked).picture).size == (8, 8)


def test_a_mask_by_path_and_by_upload(run: Run, asked: list[SampleConfig], tmp_path: Path) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("inpaint").run()
    at.button_group(key="sample.picture_from").set_value("path").run()
    at.text_input(key="sample.picture_path").set_value(image(tmp_path / "right.png")).run()
    half = np.asarray(Image.open(sampled(at, asked).mask))  # painted at first, so that the task can be tried
    assert (half[:, 4:] == 255).all()
    assert half.sum() == 32 * 255
    kept = at.session_state["sample.canvas-painted"]
    nothing = mask_canvas.encode(np.zeros((8, 8), np.uint8))
    at.session_state["sample.canvas-painted"] = kept._replace(stamp=1, mask=nothing)
    at.run()
    assert "Nothing is painted yet" in said(at)
    assert button(at, "Sample").disabled
    at.button_group(key="sample.mask_from").set_value("path").run()
    at.text_input(key="sample.mask_path").set_value(mask(tmp_path / "large.png", 20)).run()
    assert "has 20 x 20 pixels, and this model samples 8 x 8" in said(at)
    right = mask(tmp_path / "mask.png")
    at.text_input(key="sample.mask_path").set_value(right).run()
    assert sampled(at, asked).mask == right
    at.button_group(key="sample.mask_from").set_value("upload").run()
    content = Path(mask(tmp_path / "big.png", 32)).read_bytes()
    at.get("file_uploader")[0].set_value([("mask.png", content, "image/png")]).run()
    sample = sampled(at, asked)
    kept = np.asarray(Image.open(sample.mask))
    assert kept.shape == (8, 8)
    assert (kept[:4] == 255).all()
    assert (kept[4:] == 0).all()
    assert sample.sampler in timesteps.REPAINTERS


def test_what_was_painted_is_sampled_with(
    run: Run, asked: list[SampleConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = np.zeros((8, 8), np.uint8)
    painted[2:5, 3:6] = 255
    monkeypatch.setattr("pages.ui.components.mask_canvas.paint", lambda image, key, first: painted)
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("inpaint").run()
    at.button_group(key="sample.picture_from").set_value("path").run()
    at.text_input(key="sample.picture_path").set_value(image(tmp_path / "right.png")).run()
    sample = sampled(at, asked)
    assert (np.asarray(Image.open(sample.mask)) == painted).all()
    assert Path(sample.mask).parent.parent == (run.folder / "uploads").absolute()


def test_a_super_resolution_run_begins_with_no_image(fake_run: Callable[..., Run]) -> None:
    fake_run("large", small_size=4)
    at = open_page("pages/sample.py")
    assert [option.split()[-1] for option in at.button_group(key="sample.task").options] == ["Sample", "Interpolate"]


# Settings come back as they went in


def again(run: Run, asked: list[SampleConfig], sample: SampleConfig) -> SampleConfig:
    """What is sampled after "Use settings" of an earlier sampling with these."""
    job = earlier(run, sample)
    at = open_page("pages/sample.py")
    at.button(key=f"use_{key_of(job)}").click().run()
    return sampled(at, asked)


DRAWN = [
    sampling_form.FIRST,
    SampleConfig(num_samples=5, batch_size=4, sampler="ddim", steps=33, eta=0.35, seed=2**32 - 1),
    SampleConfig(num_samples=5, sampler="heun", steps=20, churn=12.5, spacing="karras", threads=2),
    SampleConfig(num_samples=1, sampler="ddpm", variance="analytic", precision="fp32", step=20),
    SampleConfig(num_samples=2, sampler="ddpm", timestep_respacing="10,15,20", variance="fixed_large"),
    SampleConfig(
        num_samples=2, sampler="dpm++3m", steps=7, guidance_scale=3.5, guidance_interval="100-800", classes="star,ring"
    ),
    SampleConfig(num_samples=2, sampler="unipc-2", steps=9, guidance_scale=20.0, dynamic_threshold=0.7),
    SampleConfig(
        num_samples=2, sampler="plms", steps=12, clip_denoised=False, analytic_first_step=True, denoise_to_zero=False
    ),
    SampleConfig(
        num_samples=7,
        task="interpolate",
        sampler="unipc-3",
        steps=8,
        seed=3,
        to_seed=9,
        spacing="logsnr",
        classes="ring",
    ),
]


def guided(run: Run, sample: SampleConfig) -> SampleConfig:
    """As the form says it: with the guidance that the request comes to."""
    return dataclasses.replace(sample, guidance_scale=guidance.scale_of(run.config.model, sample))


@pytest.mark.parametrize("sample", DRAWN)
def test_begin_then_show(sample: SampleConfig, run: Run, asked: list[SampleConfig]) -> None:
    assert again(run, asked, sample) == guided(run, dataclasses.replace(sample, weights="ema_0.9"))


@pytest.mark.parametrize(
    "sample",
    [
        SampleConfig(task="vary", num_samples=5, sampler="dpm++2m", steps=15, strength=0.75, denoise_to_zero=False),
        SampleConfig(task="inpaint", num_samples=2, sampler="ddpm", steps=50, resample=3, jump=7),
        SampleConfig(task="inpaint", num_samples=2, sampler="ddim", steps=50, eta=0.5),
        SampleConfig(task="invert", num_samples=1, sampler="ddim", steps=25),
    ],
)
def test_begin_then_show_with_a_image(
    sample: SampleConfig, run: Run, asked: list[SampleConfig], tmp_path: Path
) -> None:
    given = dict(
        picture=image(tmp_path / "given.png"), mask=mask(tmp_path / "mask.png") if sample.task == "inpaint" else ""
    )
    sample = dataclasses.replace(sample, weights="model", **given)
    assert again(run, asked, sample) == guided(run, sample)


def test_several_images_to_invert(run: Run, asked: list[SampleConfig], tmp_path: Path) -> None:
    for k in range(3):
        image(tmp_path / "many" / f"{k}.png")
    sample = SampleConfig(
        task="invert", num_samples=3, sampler="ddim", steps=25, picture=str(tmp_path / "many"), weights="model"
    )
    assert again(run, asked, sample) == guided(run, sample)


def test_a_painted_mask_is_there_to_go_on_painting(run: Run, asked: list[SampleConfig], tmp_path: Path) -> None:
    sample = SampleConfig(
        task="inpaint",
        num_samples=2,
        sampler="ddim",
        steps=20,
        weights="model",
        picture=image(tmp_path / "a.png"),
        mask=mask(tmp_path / "mask.png"),
    )
    job = earlier(run, sample)
    at = open_page("pages/sample.py")
    at.button(key=f"use_{key_of(job)}").click().run()
    assert at.button_group(key="sample.mask_from").value == "paint"
    kept = at.session_state["sample.canvas-painted"]
    assert isinstance(kept, mask_canvas.Painted)
    assert (mask_canvas.decode(kept.mask, (8, 8)) == np.asarray(Image.open(sample.mask))).all()
    assert sampled(at, asked) == guided(run, sample)
    more = np.full((8, 8), 255, np.uint8)
    at.session_state["sample.canvas-painted"] = kept._replace(mask=mask_canvas.encode(more))
    at.run()
    assert (np.asarray(Image.open(sampled(at, asked).mask)) == more).all()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (SampleConfig(use_ddim=True, timestep_respacing="ddim25"), dict(sampler="ddim")),
        (SampleConfig(), dict(sampler="ddpm")),
        (SampleConfig(steps=20), dict(sampler=FEW_STEPS)),
        (SampleConfig(sigma_small=True), dict(sampler="ddpm", variance="fixed_small")),
        (SampleConfig(sigma_small=False), dict(sampler="ddpm", variance="fixed_large")),
        (SampleConfig(task="inpaint", steps=20), dict(sampler="ddpm")),
        (SampleConfig(task="invert"), dict(sampler="ddim")),
        (SampleConfig(use_ddim=True, sampler="heun"), dict(sampler="heun")),  # by hand
    ],
)
def test_the_same_in_our_words(theirs: SampleConfig, ours: dict) -> None:
    said = summary.normal_form(theirs)
    assert said == dataclasses.replace(theirs, **{"use_ddim": False, "sigma_small": None, **ours})
    assert summary.normal_form(said) == said


# Seeds


def test_every_press_has_seeds_of_its_own_unless_the_seed_is_pinned(run: Run, asked: list[SampleConfig]) -> None:
    at = open_page("pages/sample.py")
    assert [sampled(at, asked).seed, sampled(at, asked).seed] == [0, 16]
    at.toggle(key="sample.seed_pinned").set_value(True).run()
    assert [sampled(at, asked).seed, sampled(at, asked).seed] == [32, 32]
    at.toggle(key="sample.seed_pinned").set_value(False).run()
    at.number_input(key="sample.seed").set_value(7).run()  # who types one means it
    assert at.toggle(key="sample.seed_pinned").value
    assert [sampled(at, asked).seed, sampled(at, asked).seed] == [7, 7]
    at.button(key="seed_die").click().run()
    rolled = at.number_input(key="sample.seed").value
    assert rolled != 7
    assert sampled(at, asked).seed == rolled


def test_seeds_of_earlier_samples_are_not_taken_again(run: Run, asked: list[SampleConfig]) -> None:
    earlier(run, SampleConfig(num_samples=3, seed=20))
    assert sampled(open_page("pages/sample.py"), asked).seed == 23


def test_settings_of_an_image_come_with_their_seed_pinned(run: Run, asked: list[SampleConfig]) -> None:
    job = earlier(run, SampleConfig(num_samples=3, seed=20, steps=5))
    at = open_page("pages/sample.py")
    at.button(key=f"use_{key_of(job)}").click().run()
    assert [sampled(at, asked).seed, sampled(at, asked).seed] == [20, 20]


def test_an_interpolation_begins_with_two_samples_of_a_class_that_differ(run: Run, asked: list[SampleConfig]) -> None:
    job = earlier(run, SampleConfig(num_samples=6, seed=40, steps=5), count=6)
    for k, level in enumerate((0, 10, 200, 90, 250, 205)):  # of circle, star, ring, circle, star, ring
        images.save_png(job.folder / "images" / f"{k:05d}.png", np.full((8, 8, 3), level, np.uint8))
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("interpolate").run()
    sample = sampled(at, asked)
    assert (sample.seed, sample.to_seed, sample.classes) == (41, 44, "star")
    assert (sampled(at, asked).seed, asked[-1].to_seed) == (44, 45)  # on from there


def test_a_task_begins_with_the_newest_sample_and_its_class(run: Run, asked: list[SampleConfig]) -> None:
    earlier(run, SampleConfig(num_samples=3), "20260101-030405")
    job = earlier(run, SampleConfig(num_samples=3))
    recipe = {"sample": dataclasses.asdict(SampleConfig(num_samples=1, seed=2, classes="2"))}
    images.save_png(job.images[2], np.zeros((8, 8, 3), np.uint8), recipe)
    at = open_page("pages/sample.py")
    for task in ("vary", "inpaint", "invert"):
        at.button_group(key="sample.task").set_value(task).run()
        assert ":red[" not in said(at)
        assert sampled(at, asked).picture == str(job.images[0].absolute())
    at.button(key="number_2").click().run()
    assert sampled(at, asked).classes == "2"
    at.multiselect(key="sample.classes").set_value(["star"]).run()
    assert sampled(at, asked).classes == "star"


def test_what_is_missing_is_no_mistake(run: Run) -> None:
    at = open_page("pages/sample.py")
    at.button_group(key="sample.task").set_value("vary").run()
    assert "No input image is selected yet" in said(at)
    assert ":red[" not in said(at)
    assert button(at, "Sample").disabled


@pytest.mark.parametrize("kind", ["vary", "inpaint", "invert"])
def test_a_task_is_begun_from_the_grid(kind: str, run: Run, asked: list[SampleConfig]) -> None:
    job = earlier(run, SampleConfig(num_samples=3))
    earlier(run, SampleConfig(num_samples=3), "20260103-030405")
    at = open_page("pages/sample.py")

    def script_of_the_callback() -> None:
        sample_actions.act(run, sample_grid.Action(kind, job.name, 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamlit.session_state", at.session_state)
        script_of_the_callback()
    at.run()
    assert (sampled(at, asked).task, asked[-1].picture) == (kind, str(job.images[1].absolute()))


def test_an_average_of_another_width_is_made_and_chosen(
    fake_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes one of the checkpoint's weights, and is chosen as soon as it is there."""
    run = fake_run("shapes", ema_rate="power0.05,power0.1")
    started: list[tuple[float, int]] = []
    monkeypatch.setattr("ddpm.runs.launch.start_averaging", lambda run, width, step: started.append((width, step)))
    at = open_page("pages/sample.py")
    at.number_input(key="sample.ema_width").set_value(0.08).run()
    button(at, "Make it").click().run()
    newest = run.checkpoints()[-1]
    assert started == [(0.08, newest.step)]
    path = newest.path("ema_power0.08")
    path.write_bytes(newest.path("model").read_bytes())
    entry = newest.files[newest.path("model").name]
    manifests.commit(newest._replace(files={**newest.files, path.name: entry}))
    at.run()
    assert at.session_state["sample.weights"] == "ema_power0.08"
    assert not at.exception


def test_it_is_made_while_images_are_sampled(fake_run: Callable[..., Run]) -> None:
    """Each has a button to cancel it."""
    run = fake_run("shapes", ema_rate="power0.05,power0.1")
    job, average = earlier(run, SampleConfig(num_samples=3)), launch.ema_job(run)
    with Worker(job.folder) as sampling, Worker(average.folder) as averaging:
        for worker in (sampling, averaging):
            worker.beat(state="running", step=1, total_steps=4, now=True)
        at = open_page("pages/sample.py")
        (cancel,) = (b for b in at.button if b.key == f"cancel-{average.folder.parent.name}-{average.name}")
        cancel.click().run()
        assert not at.exception
        assert ("stop" in averaging.poll_requests(), "stop" in sampling.poll_requests()) == (True, False)


def test_no_other_width_where_none_can_be_made(run: Run) -> None:
    assert "sample.ema_width" not in [field.key for field in open_page("pages/sample.py").number_input]
