"""The form's fields, and the small pure functions behind the Train and Sample pages."""

import pytest
from streamlit.testing.v1 import AppTest

from ddpm.config import validation
from ddpm.config.codec import replace
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.errors import UserError
from ddpm.schedules import respacing, space_timesteps
from pages.ui.components import setting_widgets


@pytest.mark.parametrize("T", [1, 2, 7, 20, 100, 1000])
@pytest.mark.parametrize("ddim", [True, False])
def test_respacing_keeps_exactly_that_many_steps(T, ddim):
    for steps in range(1, T + 1):
        assert len(space_timesteps(T, respacing(T, steps, ddim))) == steps


def test_respacing_uses_ddims_stride_wherever_there_is_one():
    def has_stride(T, n):
        try:
            return bool(space_timesteps(T, f"ddim{n}"))
        except UserError:
            return False

    T = 100
    assert all(respacing(T, n, ddim=True).startswith("ddim") == has_stride(T, n) for n in range(1, T))
    assert respacing(1000, 50, ddim=True) == "ddim50"
    assert respacing(1000, 50, ddim=False) == "50"
    assert respacing(1000, 1000, ddim=True) == respacing(1000, 2000, ddim=False) == ""


def test_plain_text_keeps_markdown_out():
    assert setting_widgets.escape("num_heads [a](b) $x$") == r"num\_heads \[a\](b) \$x\$"


def form_app():
    import streamlit as st

    from ddpm.config import codec
    from ddpm.config.training import Config, TrainConfig
    from pages.ui.components import setting_widgets
    from pages.ui.forms import setting_fields

    if "begun" not in st.session_state:
        st.session_state["begun"] = True
        setting_widgets.fill(
            "f", setting_widgets.values_of(codec.replace(Config(), dict(data_dir="shapes", num_heads=2)))
        )
    config, empty = setting_widgets.read("f", Config())
    from ddpm.config import validation

    wrong = setting_fields.group_by_field([*empty, *validation.problems(config)])
    notes = setting_fields.Notes(wrong, {}, "")
    for cls in codec.SECTIONS.values():
        setting_fields.section("f", cls, notes, skip=("lr_anneal_steps",) if cls is TrainConfig else ())
    st.json(codec.to_json(config))


def read_back(app: AppTest) -> Config:
    from ddpm.config import codec

    return codec.from_json(__import__("json").loads(app.json[0].value))


def complaints(app: AppTest) -> list[str]:
    return [m.value for m in app.markdown if ":red[" in m.value]


def test_a_form_reads_back_what_was_put_in():
    app = AppTest.from_function(form_app).run()
    assert not app.exception
    assert read_back(app) == replace(Config(), dict(data_dir="shapes", num_heads=2))


def test_a_field_that_is_changed_changes_the_config():
    app = AppTest.from_function(form_app).run()
    app.number_input(key="f.num_channels").set_value(64)
    app.number_input(key="f.lr").set_value(1e-3)
    app.selectbox(key="f.noise_schedule").set_value("cosine")
    app.toggle(key="f.use_checkpoint").set_value(True)
    app.text_input(key="f.ema_rate").set_value("0.99").run()
    expected = dict(
        data_dir="shapes",
        num_heads=2,
        num_channels=64,
        lr=1e-3,
        noise_schedule="cosine",
        use_checkpoint=True,
        ema_rate="0.99",
    )
    assert read_back(app) == replace(Config(), expected)


def test_what_is_wrong_is_said_at_its_field():
    app = AppTest.from_function(form_app).run()
    assert not complaints(app)
    app.number_input(key="f.num_channels").set_value(48).run()
    [said] = complaints(app)
    assert "Channels" in said
    assert "48 is not a multiple of 32" in said
    app.button(key="f-field-num_channels-0-1").click().run()
    assert app.number_input(key="f.num_channels").value == 64
    assert not complaints(app)


def test_a_field_that_is_emptied_asks_for_a_value():
    app = AppTest.from_function(form_app).run()
    app.number_input(key="f.batch_size").set_value(None).run()
    assert any("Batch size is" in line for line in complaints(app)), complaints(app)


def test_a_value_with_a_meaning_of_its_own_is_a_word():
    app = AppTest.from_function(form_app).run()
    words = {name: app.number_input(key=f"f.{name}").placeholder for name in ("keep_checkpoints", "grad_clip")}
    assert words == {"keep_checkpoints": "All", "grad_clip": "Off"}
    assert app.number_input(key="f.keep_checkpoints").value is None
    app.number_input(key="f.keep_checkpoints").set_value(3).run()
    assert read_back(app).train.keep_checkpoints == 3
    app.number_input(key="f.keep_checkpoints").set_value(None).run()
    assert read_back(app).train.keep_checkpoints == 0
    assert not complaints(app)


def test_a_setting_that_does_not_apply_has_no_field():
    app = AppTest.from_function(form_app).run()
    with pytest.raises(KeyError):
        app.number_input(key="f.lr_anneal_steps")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name):
    wrong = {problem.name for problem in validation.problems(PRESETS[name].config)}
    assert wrong <= ({"data_dir"} if not PRESETS[name].config.data.data_dir else set())
