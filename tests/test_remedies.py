"""What an error tells the user to do is not refused in turn."""

import dataclasses
import itertools
import re
from collections.abc import Iterator

import pytest
from raising import raises_error

from ddpm import schedules
from ddpm.config import codec, fields, validation
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.planning import classes, guidance, timesteps, variances
from ddpm.solvers import SOLVERS


def sentence(call: object, *arguments: object) -> str:
    """What is wrong; empty where nothing is."""
    try:
        call(*arguments)  # type: ignore[operator]
    except UserError as error:
        return str(error)
    return ""


# --- which timesteps


@pytest.mark.parametrize("T", [1, 2, 3, 5, 7, 20, 499, 500, 1000])
def test_respacing(T: int) -> None:
    asked = [
        *(f"ddim{n}" for n in (0, 1, 2, 3, 7, T - 1, T, T + 1, 10 * T)),
        str(T + 1),
        "0",
        "x",
        "ddim",
        "1,1,1,1",
        "4,4,4",
        f"{T},{T}",
    ]
    reported = 0
    for spec in asked:
        said = sentence(schedules.space_timesteps, T, spec)
        remedy = said.removeprefix(f"timestep_respacing {spec!r}")
        offered = re.findall(r"'([^']+)'|\b(ddim\d+)\b", remedy)
        for other in {word for pair in offered for word in pair if word}:
            assert schedules.space_timesteps(T, other), (spec, said)
            reported += 1
        if most := re.search(r"give at most (\d+)", remedy):
            assert schedules.space_timesteps(T, ",".join(["1"] * int(most[1]))), (spec, said)
        if most := re.search(r"ask for at most (\d+)", remedy):
            parts = spec.split(",")
            parts[int(re.findall(r"part (\d+) of", remedy)[0]) - 1] = most[1]
            assert int(most[1]) > 0
            again = sentence(schedules.space_timesteps, T, ",".join(parts))
            assert again == "" or int(re.findall(r"part (\d+)", again)[0]) > int(re.findall(r"part (\d+)", said)[0])
        assert said == "" or offered or "at most" in remedy, (spec, said)
    assert reported


def settings() -> Iterator[tuple[int, SampleConfig]]:
    sizes = (1, 2, 3, 4, 20)
    for T, name, steps, spread in itertools.product(sizes, SOLVERS, (1, 2, 3, 5, 21, 40), ("auto", "uniform")):
        for to_zero, first in itertools.product((True, False), (False, True)):
            sample = SampleConfig(
                sampler=name, steps=steps, spacing=spread, denoise_to_zero=to_zero, analytic_first_step=first
            )
            yield T, sample
    for T, strength in itertools.product((1, 2, 3, 10, 11, 12, 13, 1000), (0.0, 0.01, 0.5)):
        yield T, SampleConfig(task="vary", strength=strength)


def followed(said: str, sample: SampleConfig) -> list[SampleConfig]:
    """The settings after each thing that the sentence tells to do."""
    ways: list[dict[str, object]] = []
    if found := re.search(r"ask for(?: at least| at most)? (\d+)", said):
        ways.append({"steps": int(found[1])})
    if "spacing logsnr" in said:
        ways.append({"spacing": "logsnr"})
    if "more steps" in said:
        ways.append({"steps": sample.steps + 2})
    if found := re.match(r"(denoise_to_zero|analytic_first_step) is", said):
        ways.append({found[1]: found[1] == "denoise_to_zero"})
    if found := re.search(r"use ([\d.]+) or more", said):
        ways.append({"strength": float(found[1])})
    return [dataclasses.replace(sample, **way) for way in ways]  # type: ignore[arg-type]


@pytest.mark.slow
def test_steps_and_strength() -> None:
    reported = 0
    for T, sample in settings():
        config = codec.replace(Config(), dict(diffusion_steps=T, noise_schedule="cosine"))
        said = sentence(timesteps.timesteps, config, sample)
        ways = followed(said, sample) if said else []
        reported += len(ways)
        assert ways or not said or "use another model" in said, said
        for other in ways:
            again = sentence(timesteps.timesteps, config, other)
            assert again == "" or again.split()[0] not in said.split()[:1], (T, sample, said, again)
    assert reported > 50


@pytest.mark.parametrize("task", ["draw", "vary", "inpaint", "invert"])
@pytest.mark.parametrize("use_ddim", [False, True])
@pytest.mark.parametrize("wrong", [dict(churn=1.0), dict(variance="analytic")])
def test_a_sampler_that_is_offered_may_be_chosen(task: str, use_ddim: bool, wrong: dict[str, object]) -> None:
    sample = SampleConfig(task=task, use_ddim=use_ddim, steps=5, **wrong)  # type: ignore[arg-type]
    for check in (lambda s: timesteps.check(s), lambda s: variances.resolve_variance(Config(), s)):
        said = sentence(check, sample)
        if offered := re.search(r"use (\w+) as sampler", said):
            assert sentence(check, dataclasses.replace(sample, sampler=offered[1])) == "", said


# --- other texts


@pytest.mark.parametrize("count", [1, 2, 5, 12])
@pytest.mark.parametrize("text", ["9-3", "3-1", "20", "cat", "1-0", "4-30"])
def test_classes(count: int, text: str) -> None:
    config = codec.replace(Config(), dict(class_cond=True, num_classes=count))
    said = sentence(classes.parse_classes, config, text)
    if offered := re.search(r"write ([\d-]+)", said) or re.search(r"\((\d+-\d+)\)", said):
        assert classes.parse_classes(config, offered[1]), said
    elif said:
        assert re.search(rf"from 0 to {count - 1}|choose 0", said)


@pytest.mark.parametrize("T", [1, 10, 1000])
@pytest.mark.parametrize("text", ["900-5", "9-5", "x", "5-2000"])
def test_guidance_interval(T: int, text: str) -> None:
    said = sentence(guidance.interval, text, T)
    if offered := re.search(r"(?:write|such as) (?:one such as )?(\d+-\d+)", said):
        assert guidance.interval(offered[1], T), said
    elif said:
        assert f"between 0 and {T - 1}" in said


@pytest.mark.parametrize(
    "wrong",
    [
        dict(image_size=30, channel_mult="1,2,2"),
        dict(image_size=5, channel_mult="1,1,1,1"),
        dict(image_size=1000, channel_mult=",".join("1" * 12)),
        dict(image_size=1023, channel_mult="1,1"),
        dict(num_channels=33),
        dict(num_channels=1023),
        dict(num_heads=3),
        dict(num_heads_upsample=7),
        dict(small_size=64),
        dict(image_size=4, small_size=8),
        dict(diffusion_steps=20),
        dict(ema_rate="2"),
        dict(channel_mult="a"),
        dict(attention_resolutions="16;8"),
        dict(dropout=2.0),
        dict(batch_size=0),
    ],
    ids=str,
)
def test_settings_of_a_training(wrong: dict[str, object]) -> None:
    config = codec.replace(Config(), {"data_dir": "shapes", **wrong})
    first, *_ = list(validation.problems(config))
    remedy = first.sentence.rpartition(": ")[2]
    offered = re.findall(r"[\d.,]*\d|ddim\d+", remedy.partition(" or fewer channel_mult")[0])
    assert offered or "fewer channel_mult" in remedy, first.sentence
    kind = {s.name: s.type for section in codec.SECTIONS.values() for s in fields.settings(section)}[first.name]
    for word in re.findall(r"[\d.]+", remedy) if kind in (int, float) else offered:
        if word.strip("."):
            other = codec.replace(config, {first.name: kind(word.rstrip("."))})
            assert not list(validation.problems(other)), (first.sentence, word)


def test_eta_of_a_sampler_that_has_none_is_refused() -> None:
    for settings in (dict(steps=20), dict(), dict(sampler="heun", steps=20), dict(task="inpaint")):
        with raises_error("not-applicable", "eta", "ddim"):
            timesteps.check_typed(SampleConfig(eta=0.5, **settings))
    timesteps.check_typed(SampleConfig(eta=0.5, use_ddim=True))
    timesteps.check_typed(SampleConfig(eta=0.5, sampler="ddim", steps=20))


@pytest.mark.parametrize(("spec", "strength"), [("ddim10", 0.09), ("10", 0.1), ("4", 0.6), ("250", 0.5)])
def test_a_variation_begins_at_its_strength(spec: str, strength: float) -> None:
    """Not at the timestep below that the respacing happens to keep, which may be that of no noise."""
    found = timesteps.timesteps(Config(), SampleConfig(task="vary", strength=strength, timestep_respacing=spec))
    assert found[-1] == round(strength * 999)
    assert found == sorted(set(found))
