"""`ddpm bench`: its numbers agree with each other, its targets are judged as they are stated, its commands run."""

import json
import multiprocessing
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench import pass_marks
from raising import raises_error

from ddpm.bench import options, processes, scaling, speed, step_cost, worker
from ddpm.cli import main
from ddpm.config import codec, validation
from ddpm.config.benchmarks import ScaleConfig, SpeedConfig
from ddpm.config.presets import PRESETS
from ddpm.config.training import Config
from ddpm.reports import speed_tables
from ddpm.training.trainer import Trainer

CASES = {case.name for case in speed.CASES}

pytestmark = pytest.mark.slow  # they measure for seconds what computes in milliseconds


@pytest.fixture(scope="module")
def small() -> Config:
    return codec.replace(
        Config(),
        dict(
            image_size=8,
            num_channels=32,
            num_res_blocks=1,
            channel_mult="1",
            num_heads=1,
            attention_resolutions="",
            diffusion_steps=20,
            noise_schedule="cosine",
            batch_size=2,
            threads=1,
            ema_rate="0.9",
        ),
    )


def fork(patch: pytest.MonkeyPatch) -> None:
    """Processes of benchmarks are forked from one that has loaded torch, where the system has that."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ddpm.bench.worker"])
        patch.setattr(processes, "multiprocessing", SimpleNamespace(get_context=lambda method: context))


@pytest.fixture(scope="module")
def result(small: Config, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Any]:
    """A speed, measured of a tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        fork(patch)
        progress = list(speed.measure(SpeedConfig(rounds=2, threads=1), small))
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert progress[-1].done == progress[-1].total
    assert progress[-1].result is not None
    measured: dict[str, Any] = json.loads(json.dumps(progress[-1].result, allow_nan=False))
    return measured


@pytest.mark.slow
def test_every_way_is_measured_or_left_out_with_a_reason(result: dict[str, Any]) -> None:
    assert {*result["steps"]} | {*result["left_out"]} == CASES
    assert not {*result["steps"]} & {*result["left_out"]}
    assert {"default", "torch"} <= {*result["steps"]}
    assert set(result["exactness"]) == set(result["steps"])
    assert all(result["left_out"].values())
    assert ("bf16" in result["products"]) == result["machine"]["bf16"]


def test_ratios_are_those_of_the_seconds(result: dict[str, Any]) -> None:
    calls = [call for calls in result["calls"].values() for call in calls.values()]
    assert {*result["calls"]["default"]} == {"16", "64"}
    for measured in [*result["steps"].values(), *calls]:
        ratios = [plain / ours for ours, plain in measured["pairs"]]
        assert measured["ratio"] == pytest.approx(statistics.median(ratios))
        assert min(ratios) <= measured["low"] <= measured["ratio"] <= measured["high"] <= max(ratios)
        assert measured["seconds"] == pytest.approx(statistics.median(ours for ours, _ in measured["pairs"]))
    for step in result["steps"].values():
        peak = result["products"].get(step["precision"])
        if peak:
            assert step["share_of_peak"] == pytest.approx(result["flops"] / step["seconds"] / peak)


def test_parts_of_a_step_are_all_of_it(result: dict[str, Any]) -> None:
    parts = result["parts"]
    assert all(parts[name] > 0 for name in speed_tables.PARTS)
    whole = sum(parts[name] for name in speed_tables.PARTS)
    assert parts["outside"] == pytest.approx(1 - parts["network"] / whole)
    assert result["memory"]["default"] > 50e6
    assert result["start"]["torch"] > result["steps"]["torch"]["seconds"]


def test_a_network_in_fp32_is_as_exact_as_it_is_said_to_be(small: Config) -> None:
    found = worker.BenchmarkWorker(small).deviation(codec.replace(small, {"precision": "fp32"}))
    assert max(found["output"], found["gradient"], found["output_most"]) < 1e-5
    assert found["cosine"] == pytest.approx(1, abs=1e-6)


def test_deviations_are_noticed(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = worker.PlainTrainer.network

    def off(self: worker.PlainTrainer, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return before(self, x, t) * 1.01

    monkeypatch.setattr(worker.PlainTrainer, "network", off)
    found = worker.BenchmarkWorker(small).deviation(codec.replace(small, {"precision": "fp32"}))
    assert found["output"] == pytest.approx(0.01, rel=0.02)
    assert found["gradient"] > 1e-3


# --- figures


def figures(result: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """Figures of a result that is otherwise as measured."""
    return speed_tables.figures({**result, **changes})


def test_every_figure_has_a_value_or_a_reason(result: dict[str, Any]) -> None:
    assert [row["name"] for row in result["targets"]] == [figure.name for figure in speed_tables.FIGURES]
    assert {row["name"] for row in result["targets"]} == {*pass_marks.MARKS}
    for row in result["targets"]:
        assert (row["value"] is None) == bool(row["why"])
    found = pass_marks.judge(result["targets"])
    for row in result["targets"]:
        assert (row["value"] is None) == (found[row["name"]][0] == "not measurable here")


def test_pass_marks_follow_the_numbers(result: dict[str, Any]) -> None:
    def of(ratio: float) -> dict[str, tuple[str, str]]:
        step = {**result["steps"]["default"], "ratio": ratio, "precision": "bf16"}
        rows = figures(
            result,
            steps=dict.fromkeys(CASES, step),
            calls=dict.fromkeys(CASES, dict.fromkeys(("16", "64"), step)),
            exactness={n: {"output": 1e-6, "output_most": 1e-6, "gradient": 2e-5, "cosine": 0.9995} for n in CASES},
            left_out={},
            memory={"default": 70, "yardstick": 100},
            start={"cold_more": 4.0, "later_more": 1.5},
        )
        return pass_marks.judge(rows)

    found = of(2.3)
    del found["call_64"], found["outside"]
    assert {name: least for name, (least, _) in found.items()} == {
        "step_bf16": "met",
        "step_fp32": "met",
        "call_16": "not met",
        "step_torch": "met",
        "exact_fp32": "not met",
        "cosine_bf16": "met",
        "memory": "met",
        "start_cold": "met",
        "start_later": "not met",
    }
    assert of(2.3)["step_bf16"][1] == "not met"
    assert of(2.7)["step_bf16"][1] == "met"
    assert of(2.3)["start_cold"][1] == ""
    assert of(1.0)["step_fp32"][0] == "not met"


def test_what_cannot_be_measured_has_no_number(result: dict[str, Any]) -> None:
    step = {**result["steps"]["default"], "precision": "fp32"}
    why = "there is no C++ compiler"
    left = {"bf16": why, "fp32": why}
    machine = {**result["machine"], "bf16": False}
    found = figures(
        result, steps={"default": step, "torch": step}, left_out=left, machine=machine, start={"torch": 1.0}
    )
    rows = {row["name"]: row for row in found}
    assert (rows["step_torch"]["value"], rows["step_torch"]["why"]) == (None, speed_tables.NO_BF16)
    for name in ("step_bf16", "call_16", "call_64", "cosine_bf16", "step_fp32", "exact_fp32"):
        assert (rows[name]["value"], rows[name]["why"]) == (None, why)
    assert (rows["start_cold"]["value"], rows["start_cold"]["why"]) == (None, why)


def test_the_tables_tell_what_was_measured(result: dict[str, Any]) -> None:
    for markdown in (False, True):
        text = speed_tables.text(result, markdown)
        assert all(row["words"] in text for row in result["targets"])
        assert "Winograd" in text
        assert result["machine"]["processor"] in text
    old = json.loads(json.dumps(result))
    old["targets"][-1]["value"] = 0.123
    told = speed_tables.side_by_side(old, result)
    assert "12.3 %" in told
    assert f"{100 * result['parts']['outside']:.1f} %" in told


# --- the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, small: Config) -> None:
    """The commands measure a tiny network."""
    fork(monkeypatch)
    monkeypatch.setattr(speed, "cpu_preset", lambda: small)
    monkeypatch.setattr(scaling, "cpu_preset", lambda: small)


def test_the_command_alone_is_speed(
    monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[SpeedConfig] = []

    def measured(settings: SpeedConfig) -> Iterator[speed.Progress]:
        asked.append(settings)
        yield speed.Progress(1, 2, "halfway")
        yield speed.Progress(2, 2, "", result)

    monkeypatch.setattr(speed, "measure", measured)
    kept = tmp_path / "kept.json"
    assert main.main(["bench", "--rounds", "3", "--json", str(kept)]) == 0
    assert json.loads(kept.read_text()) == result
    alone = capsys.readouterr().out
    assert main.main(["bench", "speed", "--rounds", "3"]) == 0
    assert capsys.readouterr().out == alone
    assert main.main(["bench", "--rounds", "4", "speed"]) == 0
    assert asked == [SpeedConfig(rounds=3), SpeedConfig(rounds=3), SpeedConfig(rounds=4)]
    capsys.readouterr()
    assert main.main(["bench", "--compare", str(kept), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| before | now |" in printed


def test_what_cannot_be_compared_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", lambda settings: pytest.fail("measured"))
    other = tmp_path / "other.json"
    other.write_text("{}")
    for path, said in ((other, "not written by `ddpm bench"), (tmp_path / "none.json", "no such file")):
        assert main.main(["bench", "--compare", str(path)]) == 2
        assert said in capsys.readouterr().err
    with raises_error("out-of-range", 0):
        main.execute(["bench", "--rounds", "0"])


def test_stopping_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(settings: SpeedConfig) -> Iterator[speed.Progress]:
        yield speed.Progress(1, 9, "steps")
        raise KeyboardInterrupt

    monkeypatch.setattr(speed, "measure", interrupted)
    assert main.main(["bench", "--json", str(tmp_path / "none.json")]) == 130
    assert "stopped before everything was measured" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


# --- processes


def test_what_goes_wrong_in_another_process_is_told_here(small: Config) -> None:
    with processes.BenchmarkProcess(codec.replace(small, {"timestep_respacing": "30"})) as process:
        with raises_error("bad-respacing", 30):  # of 20 timesteps
            process.time_step()
        with pytest.raises(RuntimeError, match="no attribute 'fly'"):
            process.request("fly")
    with processes.BenchmarkProcess(small) as process:
        process._process.kill()
        with raises_error("process-failed"):
            process.time_step()


def test_a_peak_is_of_this_process_alone(small: Config) -> None:
    held = torch.ones(300_000_000, dtype=torch.uint8)  # which who is started from here must not be blamed for
    with processes.BenchmarkProcess(small) as process:
        process.request("machine")
        assert process.request("peak_bytes") < step_cost.peak_bytes() - held.numel() / 2


# --- scale


def test_points_vary_one_setting_at_a_time() -> None:
    base = PRESETS["cifar10-cpu"].config
    found = scaling.points(base, 2)
    assert [(p.setting, p.value) for p in found] == [
        *(("batch_size", n) for n in (1, 2, 4, 8, 16, 32, 64, 128)),
        *(("num_channels", n) for n in (32, 64, 96, 128)),
        *(("image_size", n) for n in (16, 32, 64)),
        ("threads", 1),
        ("threads", 2),
    ]
    for point in found:
        assert not list(validation.network_problems(point.config))
        assert codec.to_flags(point.config, base) in ([], [f"--{point.setting}", str(point.value)])
    assert [(p.setting, p.value) for p in scaling.points(base, 2, quick=True)] == [
        ("batch_size", 1),
        ("batch_size", 8),
        ("num_channels", 32),
        ("num_channels", 64),
        ("image_size", 16),
        ("image_size", 32),
        ("threads", 1),
        ("threads", 2),
    ]


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch, small: Config) -> None:
    assert "would take about 2 min" in scaling._too_much(small, 20.0)
    assert not scaling._too_much(small, 0.1)
    large = codec.replace(PRESETS["cifar10-paper"].config, {"batch_size": 65536, "microbatch": -1})
    assert "are free" in scaling._too_much(large, 0.1)
    assert [scaling._steps(5, seconds) for seconds in (0.1, 5.0, 60.0)] == [5, 4, 2]


@pytest.mark.slow
def test_the_command_draws_what_it_prints(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"batch_size": (1,), "image_size": (8,)}
    through = scaling.measure
    monkeypatch.setattr(scaling, "measure", lambda settings: through(settings, values=usual))
    drawn, kept = tmp_path / "chart.html", tmp_path / "scale.json"
    command = [
        "bench",
        "scale",
        "--quick",
        "True",
        "--steps",
        "2",
        "--threads",
        "1",
        "--chart",
        str(drawn),
        "--json",
        str(kept),
    ]
    assert main.main(command) == 0
    result = json.loads(kept.read_text())
    assert [(row["setting"], row["value"]) for row in result["rows"]] == [
        ("batch_size", 1),
        ("batch_size", 2),
        ("image_size", 8),
        ("threads", 1),
    ]
    for row in result["rows"]:
        batch = row["value"] if row["setting"] == "batch_size" else 2
        assert row["seconds_per_picture"] == pytest.approx(row["seconds"] / batch)
        assert row["seconds_off"] == pytest.approx(row["estimated_seconds"] / row["seconds"] - 1)
        assert row["bytes_off"] == pytest.approx(row["estimated_bytes"] / row["peak_bytes"] - 1)
        assert row["peak_bytes"] > 50e6
    printed = capsys.readouterr().out
    assert "Batch size 2" in printed
    assert "<html>" in drawn.read_text("utf-8")


def test_options_are_compared_with_a_step_without_them(
    quick: None, small: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = options.cases(small, [{"prediction": "v"}, {"noise_offset": 0.1}])
    assert [case.words for case in found] == [
        "--prediction v",
        "--noise_offset 0.1",
        "--small_size 16",
        "--image_size 64 --patch_size 2",
        "--preset cifar10-fast",
    ]
    through = options.measure
    monkeypatch.setattr(options, "measure", lambda settings: through(settings, small, found[:2]))
    kept = tmp_path / "options.json"
    assert main.main(["bench", "options", "--rounds", "3", "--threads", "1", "--json", str(kept)]) == 0
    rows = json.loads(kept.read_text())["rows"]
    assert [row["words"] for row in rows] == [case.words for case in found[:2]]
    for row in rows:
        assert len(row["pairs"]) == 3
        assert row["ratio"] == pytest.approx(statistics.median(usual / ours for ours, usual in row["pairs"]))
        assert row["peak_bytes"] > 50e6
    assert "--noise_offset 0.1" in capsys.readouterr().out


def test_every_option_can_be_trained_with() -> None:
    for case in options.cases(PRESETS["cifar10-cpu"].config):
        assert not list(validation.problems(codec.replace(case.config, {"num_classes": 0}))), case.words


# --- charts


def scale_result() -> dict[str, Any]:
    """A result of `ddpm bench scale` with two settings."""
    row = {"seconds": 0.2, "estimated_seconds": 0.25, "peak_bytes": 3e8, "estimated_bytes": 2.5e8}
    rows = [{"setting": "batch_size", "value": n, **row} for n in (4, 1)] + [{"setting": "threads", "value": 1, **row}]
    machine = dict(processor="A & B", cores=2, threads=2, bf16=True, torch="2", system="Linux")
    return {"machine": machine, "rows": rows}


def test_the_chart_has_every_point() -> None:
    figure = scaling.chart(scale_result())
    found = [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data]
    assert found == [
        ("measured", [1, 4], [0.2, 0.2]),
        ("estimated", [1, 4], [0.25, 0.25]),
        ("measured", [1], [0.2]),
        ("estimated", [1], [0.25]),
        ("measured", [1, 4], [3e8, 3e8]),
        ("estimated", [1, 4], [2.5e8, 2.5e8]),
        ("measured", [1], [3e8]),
        ("estimated", [1], [2.5e8]),
    ]
    assert {axis.type for axis in figure.select_xaxes()} == {axis.type for axis in figure.select_yaxes()} == {"log"}


def test_the_chart_is_a_file_that_needs_nothing_else(tmp_path: Path) -> None:
    scaling.write_chart(scale_result(), tmp_path / "chart.html")
    written = (tmp_path / "chart.html").read_text("utf-8")
    assert "<html>" in written
    assert "A &amp; B" in written or "A \\u0026 B" in written or "A & B" in written
    assert 'src="http' not in written


@pytest.mark.parametrize("name", ["chart.svg", "chart"])
def test_another_format_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "measure", lambda settings: pytest.fail("measured"))
    assert main.main(["bench", "scale", "--chart", str(tmp_path / name)]) == 2
    assert ".html" in capsys.readouterr().err


def test_without_plotly_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "measure", lambda settings: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main.main(["bench", "scale", "--chart", str(tmp_path / "chart.html")]) == 2
    assert "plotly" in capsys.readouterr().err


def test_times_of_parts_are_those_of_the_trainer(small: Config) -> None:
    trainer = Trainer(codec.replace(small, {"microbatch": 1}), step_cost.noise(small))
    watch = worker._Stopwatch(trainer)
    for _ in range(3):
        trainer.update(trainer.next_batch())
    assert 0 < watch.seconds["network"] < watch.seconds["update"]
    assert watch.seconds["draw"] > 0
    watch.reset()
    assert not any(watch.seconds.values())


def test_settings_are_within_their_limits() -> None:
    assert not list(validation.limit_problems(ScaleConfig()))
    assert not list(validation.limit_problems(SpeedConfig()))


def test_without_a_compiler_it_is_said_that_there_is_none(small: Config, tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler", "DDPM_KERNEL_CACHE": str(tmp_path)}
    with processes.BenchmarkProcess(small, environment=without) as process:
        computed = process.request("compute_mode", codec.replace(small, {"kernels": "native"}))
    assert computed.kernels == "torch"
    assert "no-such-compiler" in computed.why
