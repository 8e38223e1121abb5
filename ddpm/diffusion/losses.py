"""Training objectives L_simple, L_vlb and L_hybrid, and the variational bound in bits per dimension.

L_simple is Ho et al. 2020, Eq. 14; L_vlb, L_hybrid and their scales are Nichol & Dhariwal 2021, Sections 3.1 and 3.3.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm import weightings
from ddpm.config.model import DiffusionConfig
from ddpm.config.training import Config
from ddpm.diffusion import process
from ddpm.diffusion.denoiser import Condition, Network, Prediction, interpret_output, network_time
from ddpm.diffusion.process import q_sample
from ddpm.diffusion.variances import VARIANCES, Variance
from ddpm.planning import variances
from ddpm.schedules import Schedule


class Batch(NamedTuple):
    """The images of one training step, and its random numbers."""

    x_start: Tensor  # [N, C, H, W] in [-1, 1]
    t: Tensor  # [N] int64 index into the schedule
    noise: Tensor  # [N, C, H, W] ~ N(0, I)
    y: Tensor | None = None  # [N] int64 labels
    low_res: Tensor | None = None  # [N, C, h, w] in [-1, 1], input of a super-resolution network
    weight: Tensor | None = None  # [N] weight of each image's loss, where timesteps are not sampled uniformly
    augmented: Tensor | None = None  # float32 [N, AUGMENTED], what was done to x_start, as `ddpm.data.augment` has it

    def part(self, start: int, stop: int) -> "Batch":
        """Images start .. stop - 1 as a batch."""
        return Batch(*(None if field is None else field[start:stop] for field in self))  # type: ignore[arg-type]

    @property
    def condition(self) -> Condition:
        """Inputs of the network besides x_t and t."""
        inputs = {"y": self.y, "low_res": self.low_res, "augmented": self.augmented}
        return {name: value for name, value in inputs.items() if value is not None}


Losses = dict[str, Tensor]  # name -> [N]; "loss" is what is minimised, the others are its parts


def parts(config: Config) -> tuple[str, ...]:
    """Names of the losses of a training with these settings."""
    if config.diffusion.use_kl:
        return ("loss",)
    return ("loss", "mse", "vb") if config.model.learn_sigma else ("loss", "mse")


def training_losses(network: Network, schedule: Schedule, full: Schedule, config: Config, batch: Batch) -> Losses:
    """The loss of each image and its parts, float32 [N] each, by the objective that the settings name.

    schedule, full: the process trained on, and the one with all timesteps.  use_kl: L_vlb times their number.
    Otherwise L_simple (Ho et al. 2020, Eq. 14), weighted as loss_weighting says ("mse" is not), and with a learned
    variance L_hybrid = L_simple + L_vlb (Nichol & Dhariwal 2021, Eq. 16), where L_vlb's gradient reaches the variance
    alone; rescale_learned_sigmas weights L_vlb by T / 1000.
    """
    settings = config.diffusion
    timesteps = batch.t.new_tensor(schedule.timesteps)[batch.t]
    x_t = q_sample(schedule, batch.x_start, batch.t, batch.noise)
    output = network(x_t, network_time(settings, schedule.T, timesteps), **batch.condition)

    def bound(output: Tensor) -> Tensor:
        predicted = interpret_output(output, x_t, timesteps, full, settings, clip=False)
        return vlb_terms(schedule, settings, batch.x_start, x_t, batch.t, predicted)

    if settings.use_kl:
        return {"loss": bound(output) * len(schedule)}
    channels = x_t.shape[1]
    mean = output[:, :channels]
    mse = mean_flat((target(schedule, settings, batch, x_t) - mean).square())
    error = mse * _weights(schedule, settings, batch.t, mse) if settings.loss_weighting != weightings.NONE else mse
    if not config.model.learn_sigma:
        return {"loss": error, "mse": mse}
    vb = bound(torch.cat([mean.detach(), output[:, channels:]], dim=1))
    if settings.rescale_learned_sigmas:
        vb = vb * (len(schedule) / 1000)
    return {"loss": error + vb, "mse": mse, "vb": vb}


def _weights(schedule: Schedule, settings: DiffusionConfig, t: Tensor, like: Tensor) -> Tensor:
    """Weight of each image's squared error, float32 [N].  t: index [N].  like: [N]."""
    table = weightings.weights(
        settings.loss_weighting, settings.weighting_gamma, settings.prediction, schedule.alphas_cumprod
    )
    return process.at(table, t, like)


def target(schedule: Schedule, settings: DiffusionConfig, batch: Batch, x_t: Tensor) -> Tensor:
    """The network's regression target, float32 [N, C, H, W]: eps, x_start, v, or for x_prev the posterior's mean.

    x_t: [N, C, H, W].
    """
    if settings.prediction == "x_start":
        return batch.x_start
    if settings.prediction == "v":
        return process.v_of(schedule, batch.x_start, batch.t, batch.noise)
    if settings.prediction == "x_prev":
        return process.q_posterior_mean(schedule, batch.x_start, x_t, batch.t)
    return batch.noise


@torch.no_grad()
def eps_errors(network: Network, schedule: Schedule, settings: DiffusionConfig, batch: Batch) -> Tensor:
    """Mean squared error of the noise eps that the output amounts to, of each image: float64 [N].

    In the same unit for every prediction: with x_t given, an error of another prediction is one of eps, as x_t is a
    mixture of x_0 and eps (Salimans & Ho 2022, Section 4).  At a signal-to-noise ratio of zero x_t is eps, and what is
    predicted besides has no error.
    """
    x_t = q_sample(schedule, batch.x_start, batch.t, batch.noise)
    timesteps = batch.t.new_tensor(schedule.timesteps)[batch.t]
    output = network(x_t, network_time(settings, schedule.T, timesteps), **batch.condition)
    mse = mean_flat((target(schedule, settings, batch, x_t) - output[:, : x_t.shape[1]]).square())
    abar = schedule.alphas_cumprod
    snr = abar / (1 - abar)
    scale = {
        "eps": np.ones_like(abar),
        "v": abar,
        "x_start": snr,
        "x_prev": snr / schedule.posterior_mean_coef1**2,
    }[settings.prediction]
    return mse.double() * torch.from_numpy(scale).to(mse.device)[batch.t]


def vlb_terms(
    schedule: Schedule,
    settings: DiffusionConfig,
    x_start: Tensor,
    x_t: Tensor,
    t: Tensor,
    predicted: Prediction,
    variance: Variance | None = None,
) -> Tensor:
    """One term of the bound for each image, float32 [N], in bits per dimension (Ho et al. 2020, Eq. 5).

    x_start, x_t: [N, C, H, W].  t: index [N].  variance: None is the one that the model is trained with.

    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the decoder's -log p(x_0 | x_1).
    """
    variance = variance or VARIANCES[variances.trained_variance(settings, predicted.v is not None)]
    mean, log_variance = (
        process.q_posterior_mean(schedule, predicted.x_start, x_t, t),
        variance(schedule, t, predicted),
    )
    true_mean = process.q_posterior_mean(schedule, x_start, x_t, t)
    true_log_variance = process.at(schedule.posterior_log_variance_clipped, t, x_t)
    kl = mean_flat(normal_kl(true_mean, true_log_variance, mean, log_variance))
    decoder = -mean_flat(discretized_gaussian_log_likelihood(x_start, mean, 0.5 * log_variance))
    return torch.where(t == 0, decoder, kl) / math.log(2)


def prior_bpd(schedule: Schedule, x_start: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)) of each image, float32 [N], in bits per dimension (Ho et al. 2020, Eq. 5).

    x_start: [N, C, H, W] in [-1, 1].  It has no learned part.
    """
    last = torch.full((len(x_start),), len(schedule) - 1, device=x_start.device)
    abar = schedule.alphas_cumprod
    mean = process.at(abar**0.5, last, x_start) * x_start
    log_variance = process.at(np.log(1 - abar), last, x_start)
    return mean_flat(normal_kl(mean, log_variance, mean.new_zeros(()), mean.new_zeros(()))) / math.log(2)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2))) of each element, in nats: [...], broadcast."""
    ratio = torch.exp(log_variance1 - log_variance2)
    # Added up in improved-diffusion's order: where the sum is nearly 0, the order decides its last digits.
    return 0.5 * (-1 + log_variance2 - log_variance1 + ratio + (mean1 - mean2).square() * torch.exp(-log_variance2))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log of the mass that N(mean, exp(log_scale)^2) gives to the pixel value x (Ho et al. 2020, Eq. 13), in nats.

    x, mean, log_scale and the result: [N, C, H, W] or broadcastable.  x: in [-1, 1], one of the 256 values of a pixel;
    the outermost bins reach to infinity.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    above = normal_cdf(inverse * (centred + 1 / 255))
    below = normal_cdf(inverse * (centred - 1 / 255))
    return torch.where(x < -0.999, _log_of(above), torch.where(x > 0.999, _log_of(1 - below), _log_of(above - below)))


def normal_cdf(x: Tensor) -> Tensor:
    """The standard normal distribution function of [...], by its tanh approximation, which improved-diffusion uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mean_flat(x: Tensor) -> Tensor:
    """[N, ...] -> [N]: the mean over everything but the batch."""
    return x.flatten(1).mean(dim=1)


def _log_of(mass: Tensor) -> Tensor:
    return torch.log(mass.clamp(min=1e-12))
