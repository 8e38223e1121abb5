"""Compare: colours stay with their run, and only the settings that differ are shown."""

import app_page
import fake_run
from asking import charts

from ddpm.config import codec
from pages.ui.components import figures
from pages.ui.results import differing_settings


def test_a_colour_stays_with_its_run() -> None:
    names = [f"run-{k}" for k in range(10)]
    ten = figures.run_colours(names, {})
    assert sorted(ten.values()) == list(range(10)), "ten runs have ten colours"
    assert figures.run_colours(names, {}) == ten, "the same in every session"
    fewer = figures.run_colours(names[3:5], ten)
    assert fewer == {name: ten[name] for name in names[3:5]}
    more = figures.run_colours([names[4], "another", names[3]], fewer)
    assert (more[names[3]], more[names[4]]) == (ten[names[3]], ten[names[4]])
    assert list(more) == [names[4], "another", names[3]]
    assert len(set(more.values())) == 3
    many = figures.run_colours([*names, "eleventh", "b\udcffd"], ten)
    assert {name: many[name] for name in names} == ten
    assert many["eleventh"] in range(10)


def test_only_settings_that_differ_are_shown() -> None:
    base = fake_run.config(4000)
    assert differing_settings.rows([]) == []
    assert differing_settings.rows([base]) == []
    assert differing_settings.rows([base, base, base]) == []
    other = codec.replace(base, dict(lr=2e-5, threads=2, grad_clip=1.0))
    third = codec.replace(base, dict(lr=2e-5, class_names=(), num_classes=0, class_cond=False))
    found = differing_settings.rows([base, other, third])
    assert dict(found)["Learning rate"] == ["0.001", "2e-5", "2e-5"]
    assert dict(found)["Names of the classes"] == ["circle, square, triangle, star"] * 2 + ["none"]
    assert len(found) == len({label for label, _ in found})
    assert all(len(values) == 3 and len(set(values)) > 1 for _, values in found)
    assert len(differing_settings.text(["a" * 50, "b" * 50])) == differing_settings.MOST
    assert differing_settings.text("one\ntwo\x1b") == "one two\\x1b"


def test_the_page_takes_its_runs_from_the_link(runs_here, runs_dir) -> None:  # type: ignore[no-untyped-def]
    for name in ("first", "second", "third"):
        fake_run.write(runs_dir, name, 20)
    (runs_dir / "first").rename(runs_dir / "a,b")
    at = app_page.open_page("pages/compare.py", runs="third,a%2Cb,gone")
    assert not at.exception
    [chart] = charts(at)
    assert [run["name"] for run in chart["runs"]] == ["third", "a,b"]
    assert ["gone" in warning.value for warning in at.warning] == [True]
    before = {run["name"]: run["colour"] for run in chart["runs"]}
    at.multiselect[0].set_value(["second", "a,b", "third"]).run()
    now = {run["name"]: run["colour"] for run in charts(at)[0]["runs"]}
    assert {name: now[name] for name in before} == before
    assert at.query_params["runs"] in (["second,a%2Cb,third"], "second,a%2Cb,third")


def test_runs_that_are_too_many_are_not_left_out_in_silence(runs_here, runs_dir) -> None:  # type: ignore[no-untyped-def]
    names = [f"run-{k:02}" for k in range(22)]
    for name in names:
        fake_run.write(runs_dir, name, 4)
    at = app_page.open_page("pages/compare.py", runs=",".join(names))
    sentence = "The first 20 of 22 runs are compared, as a chart has no room for more."
    assert sentence in [info.value for info in at.info]
    assert len(charts(at)[0]["runs"]) == 20
    at.multiselect(key="compared").set_value(names[-2:]).run()
    assert sentence not in [info.value for info in at.info]
