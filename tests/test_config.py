"""Settings: said once, the same as JSON, flags and form; whatever is wrong gets one sentence with a remedy."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import raises_error

from ddpm.cli import main, shared
from ddpm.config import codec, fields, reference_names, validation
from ddpm.config.codec import SECTIONS
from ddpm.config.fields import Setting, settings
from ddpm.config.model import ModelConfig
from ddpm.config.presets import DEFAULT, OWN, PRESETS
from ddpm.config.tasks import SampleConfig
from ddpm.config.training import Config, TrainConfig
from ddpm.errors import UserError
from ddpm.storage import files

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


def values_of(s: Setting) -> st.SearchStrategy[Any]:
    """Any value that the setting can take."""
    if s.choices:
        return st.sampled_from(s.choices)
    kinds: dict[type, st.SearchStrategy[Any]] = {bool: st.booleans(), str: TEXT}
    if s.type in kinds:
        return kinds[s.type] | st.none() if s.default is None else kinds[s.type]
    assert s.low is not None
    assert s.high is not None
    if s.type is int:
        return st.integers(int(s.low), int(s.high))
    return st.floats(s.low, s.high)


def sections(cls: type) -> st.SearchStrategy[Any]:
    return st.builds(cls, **{s.name: values_of(s) for s in fields.settings(cls)})


CONFIGS = st.builds(
    Config, **{name: sections(cls) for name, cls in SECTIONS.items()}, class_names=st.lists(TEXT, max_size=3).map(tuple)
)


# --- said once


def test_every_setting_says_what_a_form_needs() -> None:
    for cls in (*SECTIONS.values(), SampleConfig):
        for s in fields.settings(cls):
            assert s.label
            assert len(s.help) > 10
            assert s.help.endswith(".")
            assert s.type in (bool, int, float, str)
            if s.type in (int, float):
                assert s.low is not None
                assert s.high is not None
                assert s.default is None or s.low <= s.default <= s.high


def test_names_are_unique_so_that_flags_are() -> None:
    names = [s.name for cls in SECTIONS.values() for s in fields.settings(cls)]
    assert len(names) == len(set(names))


def test_defaults_are_improved_diffusion_s() -> None:
    theirs = dict(
        lr=1e-4,
        weight_decay=0.0,
        lr_anneal_steps=0,
        batch_size=1,
        microbatch=-1,
        ema_rate="0.9999",
        log_interval=10,
        save_interval=10000,
        image_size=64,
        num_channels=128,
        num_res_blocks=2,
        num_heads=4,
        num_heads_upsample=-1,
        attention_resolutions="16,8",
        dropout=0.0,
        learn_sigma=False,
        sigma_small=False,
        class_cond=False,
        diffusion_steps=1000,
        noise_schedule="linear",
        timestep_respacing="",
        prediction="eps",
        rescale_timesteps=True,
        use_checkpoint=False,
        use_scale_shift_norm=True,
        data_dir="",
    )
    ours = {s.name: s.default for cls in SECTIONS.values() for s in fields.settings(cls)}
    assert {name: ours[name] for name in theirs} == theirs
    sampling = {s.name: s.default for s in fields.settings(SampleConfig)}
    assert (sampling["num_samples"], sampling["batch_size"], sampling["use_ddim"], sampling["clip_denoised"]) == (
        10000,
        16,
        False,
        True,
    )


# --- there and back


@given(CONFIGS)
def test_json_there_and_back(config: Config) -> None:
    text = json.dumps(codec.to_json(config), allow_nan=False)
    assert codec.from_json(json.loads(text)) == config


@given(sections(SampleConfig))
def test_sample_settings_there_and_back(sample: SampleConfig) -> None:
    assert codec.section_from_json(SampleConfig, json.loads(json.dumps(dataclasses.asdict(sample)))) == sample


@pytest.mark.slow
@given(CONFIGS)
def test_flags_there_and_back(config: Config) -> None:
    """The command that the dashboard shows gives these settings."""
    options = vars(main._parser().parse_args(["train", *codec.to_flags(config)]))
    names = {s.name for cls in SECTIONS.values() for s in fields.settings(cls)}
    again = codec.replace(Config(), {name: value for name, value in options.items() if name in names})
    if config.train.train_for:  # which the number of steps follows from
        config = codec.replace(config, {"total_steps": 0})
    assert again == dataclasses.replace(config, class_names=())


@pytest.mark.slow
@given(sections(SampleConfig).filter(lambda sample: sample.sigma_small is not None))
def test_sample_flags_there_and_back(sample: SampleConfig) -> None:
    options = vars(main._parser().parse_args(["sample", "--run", "r", *codec.to_flags(sample)]))
    names = {s.name for s in fields.settings(SampleConfig)}
    assert SampleConfig(**{name: value for name, value in options.items() if name in names}) == sample


def test_flags_name_only_what_differs() -> None:
    assert codec.to_flags(Config()) == []
    config = codec.replace(Config(), dict(lr=2e-5, class_cond=True, channel_mult="1,2"))
    assert codec.to_flags(config) == ["--channel_mult", "1,2", "--class_cond", "True", "--lr", "2e-05"]
    assert codec.to_flags(config, config) == []


@pytest.mark.parametrize("word", ["True", "yes", "t", "Y", "1", "False", "no", "f", "N", "0"])
def test_booleans_as_improved_diffusion_writes_them(word: str) -> None:
    assert fields.parse(bool, word) is (word.lower()[0] in "ty1")


@pytest.mark.parametrize(("kind", "text"), [(bool, "maybe"), (bool, ""), (int, "1.5"), (int, "x"), (float, "1,5")])
def test_words_that_are_no_values(kind: type, text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        fields.parse(kind, text)


def test_json_that_is_not_ours() -> None:
    good = codec.to_json(Config())
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        ([], ("newer-format", "list", 1)),
        ({}, ("newer-format", "none")),
        ({**good, "format": 2}, ("newer-format", 2)),
        ({**good, "model": [1]}, ("bad-value", "model", "[1]")),
        ({**good, "class_names": "abc"}, ("bad-value", "class_names", "'abc'")),
        ({**good, "class_names": [1]}, ("bad-value", "class_names", "[1]")),
        ({**good, "model": {"image_size": "64"}}, ("bad-value", "image_size", "'64'", "int")),
        ({**good, "model": {"image_size": True}}, ("bad-value", "image_size", True, "int")),
        ({**good, "train": {"lr": "fast"}}, ("bad-value", "lr", "float")),
        ({**good, "model": {"color": 1}}, ("unknown-setting", "'color'")),
    ]
    for data, error in cases:
        with raises_error(*error):
            codec.from_json(data)
    assert codec.from_json({"format": 1}) == Config()
    assert codec.from_json({"format": 1, "train": {"lr": 1}}).train.lr == 1.0


def test_a_choice_has_an_alias_that_files_do_not_keep() -> None:
    (task,) = (s for s in settings(SampleConfig) if s.name == "task")
    assert task.shown_choices == ("sample", *task.choices[1:])
    assert (task.normalize("sample"), task.normalize("draw"), task.normalize("vary")) == ("draw", "draw", "vary")
    assert codec.section_from_json(SampleConfig, {"task": "sample"}) == SampleConfig(task="draw")
    parser = main._parser()
    for flags in (["--task", "sample", "--image", "a.png"], ["--task", "draw", "--picture", "a.png"]):
        options = parser.parse_args(["sample", "--run", "x", *flags])
        assert shared.given(options, SampleConfig)["task"] == "draw"
        assert options.picture == "a.png"


def test_replace_knows_every_name() -> None:
    config = codec.replace(Config(), dict(lr=0.5, image_size=8, data_dir="x", class_names=["a"]))
    assert (config.train.lr, config.model.image_size, config.data.data_dir, config.class_names) == (0.5, 8, "x", ("a",))
    with raises_error("unknown-setting"):
        codec.replace(Config(), dict(size=1, colour=2))


def test_resolved_always_has_an_end() -> None:
    assert codec.resolved(Config()).train.total_steps == 30_000
    assert codec.resolved(codec.replace(Config(), dict(lr_anneal_steps=7))).train.total_steps == 7
    assert codec.resolved(codec.replace(Config(), dict(lr_anneal_steps=7, total_steps=5))).train.total_steps == 5


# --- what follows from them


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, (1, 2, 2, 2)), (64, (1, 2, 3, 4)), (256, (1, 1, 2, 2, 4, 4)), (28, (1, 2, 2)), (33, (1,)), (4, (1,))],
)
def test_multipliers(size: int, expected: tuple[int, ...]) -> None:
    assert ModelConfig(image_size=size).multipliers == expected


@given(st.integers(4, 1024))
def test_default_multipliers_always_fit(size: int) -> None:
    config = codec.replace(Config(), dict(image_size=size, data_dir="x"))
    assert list(validation.problems(config)) == []
    assert size % 2 ** (len(config.model.multipliers) - 1) == 0


def test_derived_settings() -> None:
    assert ModelConfig(num_heads=2).heads_up == 2
    assert ModelConfig(num_heads_upsample=1).heads_up == 1
    assert ModelConfig(learn_sigma=True, image_channels=1).out_channels == 2
    assert TrainConfig(ema_rate="0.9, 0.990,").ema_rates == ("0.9", "0.99")
    assert (
        TrainConfig(batch_size=8).micro,
        TrainConfig(batch_size=8, microbatch=3).micro,
        TrainConfig(microbatch=3).micro,
    ) == (8, 3, 1)


# --- what is wrong

GOOD = dict(data_dir="shapes", image_size=32)
BAD: list[tuple[dict[str, Any], str, str]] = [
    (
        dict(image_size=30, channel_mult="1,2,2,2"),
        "image_size",
        (
            "image_size 30 cannot be halved 3 times, which 4 levels (channel_mult 1,2,2,2) need: use 24, 32, or fewer"
            " channel_mult entries."
        ),
    ),
    (dict(image_size=4, channel_mult="1,2,2,2,4"), "image_size", "use 16, or fewer"),
    (dict(image_size=2), "image_size", "image_size is 2: set it between 4 and 1024."),
    (
        dict(image_channels=2),
        "image_channels",
        "image_channels is 2: use 1 (grey), 3 (colour) or 4 (with transparency).",
    ),
    (dict(num_channels=100), "num_channels", "use 96 or 128."),
    (
        dict(num_heads=3),
        "num_heads",
        "num_heads 3 does not divide the 256 channels where attention is used: use 1, 2, 4, 8.",
    ),
    (dict(num_heads_upsample=5), "num_heads_upsample", "num_heads_upsample 5 does not divide"),
    (dict(num_heads_upsample=0), "num_heads_upsample", "num_heads_upsample 0 does not divide"),
    (
        dict(channel_mult="1,x"),
        "channel_mult",
        "channel_mult '1,x' is not a list of positive whole numbers: separate them with commas, as in 16,8.",
    ),
    (dict(channel_mult="0"), "channel_mult", "channel_mult '0' is not"),
    (dict(attention_resolutions="16;8"), "attention_resolutions", "attention_resolutions '16;8' is not a list"),
    (dict(dropout=1.5), "dropout", "dropout is 1.5: set it between 0 and 0.95."),
    (dict(diffusion_steps=20), "diffusion_steps", "use at least 21 diffusion steps, or the cosine schedule."),
    (dict(diffusion_steps=0), "diffusion_steps", "between 1 and 100000."),
    (
        dict(noise_schedule="quadratic"),
        "noise_schedule",
        "noise_schedule is 'quadratic', which is none of linear, cosine, sigmoid: choose one of them.",
    ),
    (
        dict(timestep_respacing="ddim999"),
        "timestep_respacing",
        "use one that does (ddim500, ddim1000), or '999' for even spacing.",
    ),
    (dict(timestep_respacing="2000"), "timestep_respacing", "ask for at most 1000."),
    (
        dict(timestep_respacing="many"),
        "timestep_respacing",
        "write '50', 'ddim50', or one count per part as '10,15,20'.",
    ),
    (dict(data_dir=""), "data_dir", "data_dir is empty: name a folder of images"),
    (dict(microbatch=0), "microbatch", "microbatch is 0: use -1 for the whole batch"),
    (dict(batch_size=0), "batch_size", "batch_size is 0: set it between 1 and 65536."),
    (dict(lr=0.0), "lr", "lr is 0, so the weights would not change: start with 0.0001."),
    (dict(lr=math.nan), "lr", "lr is nan: set it between 0 and 1."),
    (dict(lr=math.inf), "lr", "lr is inf: set it"),
    (dict(seed=2**32), "seed", "seed is 4294967296: set it between 0 and 4294967295."),
    (dict(total_steps=10**400), "total_steps", ": set it between 0 and 1000000000."),
    (dict(ema_rate="0.9,2"), "ema_rate", "ema_rate '2.0' is neither a rate between 0 and 1 nor a width"),
    (dict(ema_rate="often"), "ema_rate", "ema_rate 'often' is neither a rate between 0 and 1 nor a width"),
    (dict(ema_rate="0.9,0.90"), "ema_rate", "has the same rate twice: give each once."),
    (dict(lr_anneal_steps=5, total_steps=10), "total_steps", "make them equal."),
    (dict(lr_anneal_steps=9, lr_schedule="cosine"), "lr_schedule", "set lr_anneal_steps to 0, or lr_schedule to"),
    (
        dict(lr_warmup_steps=90, lr_schedule="warmup-stable-decay", total_steps=100),
        "lr_warmup_steps",
        "make it at most 80, or raise total_steps.",
    ),
    (dict(lr_warmup_steps=9, lr_schedule="cosine", total_steps=5), "lr_warmup_steps", "make it at most 5"),
    (dict(zero_terminal_snr=True), "zero_terminal_snr", "set prediction to v, or set zero_terminal_snr to False."),
    (
        dict(zero_terminal_snr=True, prediction="v", diffusion_steps=1, noise_schedule="cosine"),
        "zero_terminal_snr",
        "use more diffusion steps",
    ),
    (dict(noise_offset=0.1, use_kl=True), "noise_offset", "set noise_offset to 0, or use_kl to False."),
    (dict(train_for="3 hours"), "train_for", "write it as 90s, 20m, 3h or 1h30m"),
    (dict(train_for="3h", lr_schedule="cosine"), "train_for", "set lr_schedule to warmup-stable-decay, or"),
    (dict(train_for="3h", lr_anneal_steps=9), "train_for", "or say how many steps with total_steps."),
    (dict(prediction="x_prev", timestep_respacing="10"), "prediction", "leave timestep_respacing empty."),
    (dict(loss_weighting="min-snr", use_kl=True), "loss_weighting", "or change use_kl."),
    (dict(loss_weighting="alpha", prediction="x_prev"), "loss_weighting", "or change prediction."),
    (dict(augment=1.0), "augment", "use 0.15, or at most 0.5."),
    (dict(small_size=64), "small_size", "there is nothing to upsample: use 16 or less"),
]


@pytest.mark.parametrize(("values", "name", "sentence"), BAD, ids=[f"{n}-{i}" for i, (_, n, _) in enumerate(BAD)])
def test_each_bad_setting_has_one_sentence(values: dict[str, Any], name: str, sentence: str) -> None:
    config = codec.replace(Config(), {**GOOD, **values})
    (problem,) = validation.problems(config)
    assert problem.name == name
    assert sentence in problem.sentence
    assert name in problem.sentence
    assert problem.sentence.endswith(".")
    assert "\n" not in problem.sentence
    assert ":" in problem.sentence  # what is wrong: what to do
    with pytest.raises(UserError, match=name):
        validation.check(config)


@pytest.mark.slow
@given(CONFIGS)
def test_no_settings_make_the_check_itself_fail(config: Config) -> None:
    for problem in validation.problems(config):
        assert problem.name in codec.to_json(config)["model"] | {
            s.name: 0 for cls in SECTIONS.values() for s in fields.settings(cls)
        }


def test_limits_of_sampling() -> None:
    assert list(validation.limit_problems(SampleConfig())) == []
    (problem,) = validation.limit_problems(SampleConfig(eta=2.0))
    assert problem.sentence == "eta is 2.0: set it between 0 and 1."


# Models of data that everybody brings on their own.
BRING_DATA = {
    name: {"data_dir"}
    for name, preset in PRESETS.items()
    if name.startswith(("imagenet", "lsun", "upsample")) or preset.group == OWN
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_ready_to_start(name: str) -> None:
    preset = PRESETS[name]
    assert not {problem.name for problem in validation.problems(preset.config)} - BRING_DATA.get(name, set())
    assert codec.replace(Config(), preset.settings) == preset.config
    assert preset.description.endswith(".")
    assert DEFAULT in PRESETS


def test_a_config_file_is_readable(tmp_path: Path, tiny: Config) -> None:
    files.write_json(tmp_path / "config.json", codec.to_json(tiny))
    assert codec.from_json(files.read_json(tmp_path / "config.json")) == tiny
    assert '"image_size": 8' in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("prediction", [[], {}, 3, None])
def test_a_prediction_that_is_no_name(prediction: Any) -> None:
    with raises_error("bad-value"):
        reference_names.to_own({"prediction": prediction})
