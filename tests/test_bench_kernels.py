"""`ddpm bench kernels`: what kernels are compared with, and that work is counted as it is done."""

import pytest

from ddpm.bench import kernels
from ddpm.bench.speed import cpu_preset
from ddpm.config import codec
from ddpm.config.benchmarks import KernelsConfig
from ddpm.errors import UserError
from ddpm.models.native import build
from ddpm.planning import architecture

SMALL = codec.replace(
    cpu_preset(), dict(image_size=8, num_channels=32, num_res_blocks=1, channel_mult="1", batch_size=2)
)


@pytest.mark.slow
def test_kernels_are_counted_and_compared_with_the_peaks() -> None:
    if build.found().library is None:
        pytest.skip(build.found().why)
    *_, last = kernels.measure(KernelsConfig(steps=2, threads=1), SMALL)
    assert last.result is not None
    rows, peaks = last.result["rows"], last.result["peaks"]
    by_name = {row["kernel"]: row for row in rows}
    assert {"winograd", "winograd_gradient", "norm", "norm_gradient", "linear", "update"} <= by_name.keys()
    for row in rows:
        assert row["rate"] == pytest.approx(row["work"] * row["calls"] / row["seconds"])
        assert row["share_of_peak"] == pytest.approx(row["rate"] / peaks[row["of"]])
    assert by_name["update"]["sizes"] == {"weights": architecture.parameters(SMALL.model), "averages": 2}
    printed = kernels.table(last.result)
    assert "winograd_gradient" in printed
    assert "GFLOP/s of products" in printed


@pytest.mark.slow
def test_without_kernels_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no kernels to measure, since CXX names no-such-compiler"):
        list(kernels.measure(KernelsConfig(steps=1, threads=1), SMALL))


def test_multiplications_are_counted_as_they_are_done() -> None:
    sizes = {"tile": 4, "images": 8, "height": 32, "width": 30, "in": 64, "out": 32}
    assert kernels.multiplications("winograd", sizes) == 8 * 8 * 8 * 36 * 64 * 32
    assert kernels.multiplications("pointwise_back", {"pixels": 5, "in": 16, "out": 32}) == 5 * 16 * 32
    heads = {"images": 2, "pixels": 9, "heads": 3, "channels": 16}
    assert kernels.multiplications("attention", heads) == 2 * 2 * 3 * 81 * 16
    assert kernels.multiplications("norm", {}) == 0
