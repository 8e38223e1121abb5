"""Distances between sets of images: exact solutions, planted truths, the same bits each time."""

import io

import numpy as np
import pytest
import torch

from ddpm.errors import UserError
from ddpm.quality import coverage, distances, feature_net, features, panel, pixels
from ddpm.quality.distances import Gaussian
from ddpm.quality.features import FeatureNet

RNG = np.random.default_rng(0)
D = 8


def drawn(count: int, mean: float = 0.0, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).standard_normal((count, D))


# --- Fréchet distance


def test_the_distance_of_normal_distributions_has_a_closed_form() -> None:
    """Where covariances commute: |m1 - m2|^2 and the squared differences of the standard deviations."""
    turn = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    first, second = RNG.uniform(0.1, 3, D), RNG.uniform(0.1, 3, D)
    means = RNG.standard_normal((2, D))
    found = distances.frechet(
        Gaussian(means[0], turn * first**2 @ turn.T), Gaussian(means[1], turn * second**2 @ turn.T)
    )
    assert found == pytest.approx(((means[0] - means[1]) ** 2).sum() + ((first - second) ** 2).sum(), rel=1e-10)


def test_it_is_the_trace_of_the_root_of_the_product() -> None:
    """Of covariances that do not commute: tr (A B)^(1/2) from the eigenvalues of A B, which is not symmetric."""
    a, b = (x @ x.T for x in RNG.standard_normal((2, D, D)))
    zero = np.zeros(D)
    roots = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    expected = np.trace(a) + np.trace(b) - 2 * roots
    assert distances.frechet(Gaussian(zero, a), Gaussian(zero, b)) == pytest.approx(expected, rel=1e-8)
    assert distances.frechet(Gaussian(zero, a), Gaussian(zero, a)) == pytest.approx(0, abs=1e-8)


def test_mean_and_covariance_are_numpys() -> None:
    x = RNG.standard_normal((50, D)).astype(np.float32)
    found = distances.gaussian(x)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64).T), rtol=1e-12)
    twice = distances.gaussian(x, np.full(50, 2.0))
    np.testing.assert_allclose(twice.covariance, np.cov(np.repeat(x, 2, axis=0).astype(np.float64).T), rtol=1e-12)


def test_few_images_raise_it_and_the_extrapolation_takes_that_away() -> None:
    """m = 0.5 in each of 8 dimensions, deviation 1 and 1.2: 8 x 0.25 + 8 x 0.04 = 2.32."""
    true = D * (0.5**2 + 0.2**2)
    x, y = drawn(600, 0.5, 1.2), drawn(600, seed=1)
    found = distances.frechet_distance(x, y)
    at_infinity = distances.frechet_at_infinity(x, y)
    assert found.low is not None
    assert at_infinity.low is not None
    assert at_infinity.high is not None
    assert at_infinity.low < true < at_infinity.high
    assert at_infinity.value < found.value
    assert distances.frechet_at_infinity(x, y, interval=False).value == at_infinity.value


def test_of_the_same_kind_of_images_nothing_remains_at_infinity() -> None:
    values = [
        distances.frechet_at_infinity(drawn(400, seed=k), drawn(400, seed=k + 50), interval=False).value
        for k in range(10)
    ]
    biased = distances.frechet(distances.gaussian(drawn(400)), distances.gaussian(drawn(400, seed=50)))
    assert abs(np.mean(values)) < 0.1 * biased


def test_the_interval_at_infinity_is_as_wide_as_what_other_samples_give() -> None:
    """Also of few images, where the terms of the line move much, but together."""
    few = [distances.frechet_at_infinity(drawn(30, seed=k), drawn(30, seed=k + 500)) for k in range(40)]
    widths = [(one.high - one.low) / 2 / 1.96 for one in few if one.high is not None and one.low is not None]
    assert 0.7 < np.mean(widths) / np.std([one.value for one in few]) < 1.4


def test_intervals_cover_what_other_samples_give() -> None:
    others = [
        distances.frechet(distances.gaussian(drawn(500, 0.3, seed=k)), distances.gaussian(drawn(500, seed=k + 1000)))
        for k in range(100)
    ]
    low, high = np.quantile(others, (0.025, 0.975))
    found = distances.frechet_distance(drawn(500, 0.3), drawn(500, seed=1000))
    assert found.low is not None
    assert found.high is not None
    assert 0.7 < (found.high - found.low) / (high - low) < 1.4


# --- kernel distance


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / D + 1) ** 3)


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate, pair by pair."""
    n, m = len(x), len(y)
    of_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    of_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return of_x + of_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_the_kernel_distance_is_that_of_all_pairs() -> None:
    x, y = drawn(9, 0.5), drawn(7, seed=1)
    found = distances.kernel_distance(x, y)
    assert found.value == pytest.approx(by_hand(x, y), rel=1e-10)
    assert distances.kernel_distance(x, y, distances.kernel_sums(y)) == found


def test_its_interval_is_that_of_the_jackknife() -> None:
    x, y = drawn(9, 0.5), drawn(7, seed=1)
    variance = 0.0
    for a, b, leave_x in ((x, y, True), (y, x, False)):
        without = np.array([np.delete(a, k, axis=0) for k in range(len(a))])
        values = np.array([by_hand(one, b) if leave_x else by_hand(b, one) for one in without])
        variance += (len(a) - 1) / len(a) * ((values - values.mean()) ** 2).sum()
    found = distances.kernel_distance(x, y)
    assert found.high is not None
    assert found.high - found.value == pytest.approx(1.96 * variance**0.5, rel=1e-8)


def test_of_the_same_kind_of_images_it_is_about_0() -> None:
    values = [distances.kernel_distance(drawn(200, seed=k), drawn(200, seed=k + 50)).value for k in range(20)]
    assert abs(np.mean(values)) < 2 * np.std(values) / 20**0.5
    far = distances.kernel_distance(drawn(200, 0.5), drawn(200, seed=1))
    assert far.low is not None
    assert far.low > 0


# --- density and coverage


def test_equal_sets_are_covered() -> None:
    """Independent ones up to 1 - 2^-5 on average (Naeem et al. 2020, with as many samples as images)."""
    x, y = drawn(1000), drawn(1000, seed=1)
    found = coverage.coverage(x, y)
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.1)
    assert coverage.coverage(y, y).coverage == 1
    assert coverage.coverage(x + 100, y) == (0, 0)


def test_a_single_mode_covers_little() -> None:
    y = np.concatenate([drawn(100), drawn(100, 20, seed=1)])
    assert coverage.coverage(drawn(200, seed=2), y).coverage == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="neighbour"):
        coverage.coverage(y, y[:5])


# --- pixels


def pictures(count: int = 40, size: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth images uint8 [count, size, size, 3]: blurred noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return np.clip((pixels.blurred(noise, 2.0).astype(float) - 128) * 4 + 128, 0, 255).astype(np.uint8)


def with_noise(images: np.ndarray, amount: float) -> np.ndarray:
    noise = amount * np.random.default_rng(9).standard_normal(images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def test_a_planted_grid_is_found() -> None:
    plain = np.random.default_rng(0).integers(100, 156, (20, 16, 16, 3), np.uint8)
    assert pixels.blockiness(plain) == pytest.approx(1, abs=0.05)
    blocks = plain[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2)
    assert pixels.blockiness(blocks) > 1e6
    raised = plain.copy().astype(int)
    raised[:, :, 2::4] += 40  # columns 2 and 3 of every 4: steps lie at the edges of blocks alone
    raised[:, :, 3::4] += 40
    assert pixels.blockiness(raised) > 1.2


def test_the_cosine_transform_is_orthonormal() -> None:
    for size in (7, 8):
        np.testing.assert_allclose(pixels.cosines(size) @ pixels.cosines(size).T, np.eye(size), atol=1e-12)


def test_a_wave_lies_in_the_band_of_its_frequency() -> None:
    wave = 128 + 100 * np.cos(np.pi * 8 * (2 * np.arange(32) + 1) / 64)
    images = np.broadcast_to(wave[None, None, :, None], (1, 32, 32, 1)).round().astype(np.uint8)
    found = pixels.spectrum(images)
    assert len(found) == 16
    assert found.argmax() == 8 / 32 * 16
    assert found.max() > 0.99 * found.sum()
    flat = np.full((1, 8, 8, 3), 7, np.uint8)
    assert pixels.spectrum(flat) == pytest.approx(0, abs=1e-9)


def test_white_noise_has_the_same_power_at_each_frequency() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 1), np.uint8)
    np.testing.assert_allclose(pixels.spectrum(images) / ((256**2 - 1) / 12), 1, atol=0.15)


def test_colours_are_those_planted() -> None:
    images = pictures()
    lighter = np.clip(images.astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    far, spread = pixels.colour_differences(lighter, images)
    assert far == pytest.approx(np.sqrt(((lighter.mean((0, 1, 2)) - images.mean((0, 1, 2))) ** 2).mean()))
    assert spread == pytest.approx(0.5, abs=0.01)
    assert pixels.colour_differences(images, images) == pytest.approx((0, 1))


def test_noise_images_have_the_colours_of_the_reference() -> None:
    images = np.random.default_rng(0).normal((90, 120, 150), (10, 20, 30), (20, 16, 16, 3)).astype(np.uint8)
    far, spread = pixels.colour_differences(pixels.noise_like(images, 100), images)
    assert far < 0.5
    assert spread == pytest.approx(1, abs=0.03)


def test_how_many_are_computed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()[:20]
    wanted = pixels.noise_like(images, 7), pixels.blurred(images)
    monkeypatch.setattr(pixels, "BLOCK", 3 * images[0].size)
    for found, one in zip((pixels.noise_like(images, 7), pixels.blurred(images)), wanted, strict=True):
        np.testing.assert_array_equal(found, one)
    mean, spread = pixels.colours(images)
    values = np.random.default_rng(0).standard_normal((7, *images.shape[1:]), np.float32)
    all_at_once = np.rint(values * spread.astype(np.float32) + mean.astype(np.float32)).clip(0, 255)
    np.testing.assert_array_equal(pixels.noise_like(images, 7), all_at_once)


def test_blurring_keeps_means_and_takes_detail() -> None:
    images = pictures()
    np.testing.assert_allclose(pixels.blurred(images).mean((1, 2)), images.mean((1, 2)), atol=0.1)
    assert (pixels.blurred(np.full((1, 8, 8, 3), 9, np.uint8)) == 9).all()


def test_more_noise_is_farther_away_by_every_measure() -> None:
    images = pictures(80)
    real = pixels.patch_quantiles(images)
    rows = []
    for amount in (0, 4, 8, 16, 32):
        noisy = with_noise(images, amount)
        fine, coarse = pixels.patch_distances(pixels.patch_quantiles(noisy), real)
        rows.append([fine, coarse, pixels.spectrum_distance(noisy, images)])
    assert rows[0] == [0, 0, 0]
    assert (np.diff(np.array(rows), axis=0) > 0).all()


def test_images_smaller_than_a_patch_are_compared_too() -> None:
    small = pictures(size=8)
    assert pixels.patch_distances(*[pixels.patch_quantiles(small)] * 2) == (0, 0)


# --- features


@pytest.fixture(scope="module")
def trained() -> feature_net.TrainedNet:
    """A network whose normalisation is not the identity."""
    torch.manual_seed(0)
    net = feature_net.TrainedNet()
    with torch.no_grad():
        for norm in net.norms.values():
            norm.running_mean.normal_(0, 0.1)  # type: ignore[operator, union-attr]
            norm.running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    return net.eval()


def test_normalisation_is_folded_into_the_convolutions(trained: feature_net.TrainedNet) -> None:
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    weights = {name: torch.from_numpy(values).float() for name, values in feature_net.folded(trained).items()}
    with torch.no_grad():
        expected = trained.features(x)
        found = feature_net.features(weights, x)
    assert found.shape == (3, 128)
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)  # weights are kept in 16 bits


@pytest.mark.usefixtures("threads_afterwards")
def test_features_are_the_same_bits_in_any_batch_and_with_any_threads() -> None:
    net = features.load()
    images = pictures(130, 32)
    torch.set_num_threads(1)
    found = net.features(images)
    torch.set_num_threads(2)
    assert (net.features(images) == found).all()
    assert (net.features(images[100:]) == found[100:]).all()


def test_images_of_other_sizes_and_channels_are_brought_to_those_of_the_network() -> None:
    grey = np.full((2, 16, 16, 1), 40, np.uint8)
    assert (features.prepared(grey) == 40).all()
    assert features.prepared(grey).shape == (2, 32, 32, 3)
    clear = np.zeros((1, 32, 32, 4), np.uint8)
    assert (features.prepared(clear) == 255).all(), "transparent is white"
    images = pictures(2, 32)
    assert features.prepared(images) is images


def test_the_file_that_ships_is_the_one_whose_checksum_names_the_features() -> None:
    net = features.load()
    assert net.name == f"c10v1-{features.SHA256[:12]}"
    assert 0.8e6 < features.FILE.stat().st_size < 1.2e6
    assert net.farthest_class > 0


def test_another_file_in_its_place_is_refused(
    trained: feature_net.TrainedNet, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    np.savez(file, **feature_net.folded(trained))  # type: ignore[arg-type]
    path = tmp_path / "feature_net.npz"  # type: ignore[operator]
    path.write_bytes(file.getvalue())
    assert FeatureNet(file.getvalue()).width == 128
    monkeypatch.setattr(features, "FILE", path)
    with pytest.raises(UserError) as error:
        features.load.__wrapped__()
    assert error.value.code == "wrong-checksum"
    path.unlink()
    with pytest.raises(UserError) as error:
        features.load.__wrapped__()
    assert error.value.code == "not-found"


def test_the_features_rank_blur_and_noise_behind_real_images() -> None:
    """On CIFAR-10 images that come with the program."""
    from ddpm.config.model import ModelConfig
    from ddpm.config.training import DataConfig
    from ddpm.data import datasets

    images = np.asarray(
        datasets.open_dataset(DataConfig("cifar10-mini"), ModelConfig(image_size=32), split="all").images
    )
    net = features.load()
    real, other = net.features(images[:500:2]), net.features(images[1:500:2])

    def far(found: np.ndarray) -> float:
        return distances.frechet_at_infinity(found, real, interval=False).value

    near = far(other)
    by_noise = [far(net.features(with_noise(images[1:500:2], amount))) for amount in (8, 32)]
    assert near < by_noise[0] < by_noise[1]
    assert near < far(net.features(pixels.blurred(images[1:500:2])))
    assert net.nearness(real) < net.farthest_class


def test_a_panel_is_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "RESAMPLES", 10)
    monkeypatch.setattr(distances, "GROUPS", 3)
    images = pictures(3 * 140, 16)
    sets = np.split(images, 3)
    found = [list(panel.measure(*sets, features.load()))[-1].panel for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert panel.as_json(found[0]) == panel.as_json(found[1])
    assert [row.name for row in found[0].rows] == ["samples", "real", "noise", "blurred"]
    figures = [row["figures"] for row in panel.as_json(found[0])["rows"]]
    assert all(np.isfinite(values[0]) for row in figures for values in row.values())
    assert figures[1]["fd"][0] < figures[2]["fd"][0]
