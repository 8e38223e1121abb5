"""Noise schedules: the tables of a diffusion process, its values between timesteps, and respacing.

Tables are float64 and indexed by t = 0 .. T-1; t = 0 is the first, least noisy timestep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ddpm.errors import UserError
from ddpm.formatting import plural


def linear_betas(T: int) -> np.ndarray:
    """betas float64 [T] of Ho et al. 2020, Section 4, scaled so that any T ends at about the same noise."""
    scale = 1000 / T
    if T == 1:
        return np.array(
            [scale * 0.02]
        )  # linspace would give the smallest beta, and the only step must add all the noise
    return np.linspace(scale * 1e-4, scale * 0.02, T, dtype=np.float64)


def cosine_betas(T: int, max_beta: float = 0.999) -> np.ndarray:
    """betas float64 [T] of the cosine schedule, Nichol & Dhariwal 2021, Eq. 17, at most max_beta."""
    abar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], max_beta)


def sigmoid_betas(T: int, start: float = -3.0, end: float = 3.0, max_beta: float = 0.999) -> np.ndarray:
    """betas float64 [T] of the sigmoid schedule, at most max_beta (Jabri et al. 2022; Chen 2023, Algorithm 1, tau 1).

    abar falls along a sigmoid from `start` to `end`, which is scaled to begin at 1 and end at 0.
    """
    curve = 1 / (1 + np.exp(-np.linspace(start, end, T + 1, dtype=np.float64)))
    abar = (curve[-1] - curve) / (curve[-1] - curve[0])
    return np.minimum(1 - abar[1:] / abar[:-1], max_beta)


BETAS = {"linear": linear_betas, "cosine": cosine_betas, "sigmoid": sigmoid_betas}


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """betas [T] of the same schedule, shifted and scaled so that nothing of the image is left at the last timestep.

    The last of them is 1, and abar_T is 0; abar_1 stays (Lin et al. 2024, Algorithm 1).  T is at least 2.
    """
    alpha = np.sqrt(np.cumprod(1 - betas))
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    abar = alpha**2
    return 1 - abar / np.append(1.0, abar[:-1])


class Curve:
    """A process q(x_t | x_0) = N(alpha x_0, sigma^2) at every real t in [0, T - 1].

    Between two timesteps, log alpha is linear (Lu et al. 2022a, Appendix D.2), and before a last timestep where alpha
    is 0 it is alpha that is linear; alpha^2 + sigma^2 = 1 everywhere.
    lam is their lambda = log(alpha / sigma), half the log signal-to-noise ratio, and falls as t rises.
    Arguments and results are float64, of any shape [...]; alphas_cumprod is [T].
    """

    def __init__(self, alphas_cumprod: np.ndarray):
        self._ends_in_noise = len(alphas_cumprod) > 1 and alphas_cumprod[-1] == 0
        finite = alphas_cumprod[:-1] if self._ends_in_noise else alphas_cumprod
        self._t = np.arange(len(finite), dtype=np.float64)
        self._log_alpha = 0.5 * np.log(finite)

    def abar(self, t: np.ndarray | float) -> np.ndarray:
        """alphas_cumprod at t, alpha_t^2."""
        abar = np.exp(2 * np.interp(t, self._t, self._log_alpha))
        if self._ends_in_noise:
            abar = abar * np.clip(self._t[-1] + 1 - np.asarray(t, np.float64), 0, 1) ** 2
        return abar

    def alpha(self, t: np.ndarray | float) -> np.ndarray:
        """Signal coefficient alpha_t of x_t = alpha_t x_0 + sigma_t eps."""
        return np.sqrt(self.abar(t))

    def sigma(self, t: np.ndarray | float) -> np.ndarray:
        """Noise coefficient sigma_t of x_t = alpha_t x_0 + sigma_t eps."""
        return np.sqrt(1 - self.abar(t))

    def lam(self, t: np.ndarray | float) -> np.ndarray:
        """Half the log signal-to-noise ratio, log(alpha_t / sigma_t)."""
        return log_snr(self.abar(t))

    def t_of(self, lam: np.ndarray | float) -> np.ndarray:
        """The inverse of `lam`: t in [0, T - 1], clipped to its ends."""
        log_alpha = -0.5 * np.logaddexp(0, -2 * np.asarray(lam, np.float64))
        t = np.interp(log_alpha, self._log_alpha[::-1], self._t[::-1])
        if self._ends_in_noise:
            t = t + 1 - np.exp(np.minimum(0, log_alpha - self._log_alpha[-1]))
        return t


def log_snr(abar: np.ndarray) -> np.ndarray:
    """log(alpha / sigma) of abar = alpha^2, float64 [...]; infinite at 1, the clean image, and -infinite at 0."""
    with np.errstate(divide="ignore"):
        return 0.5 * (np.log(abar) - np.log1p(-np.asarray(abar)))


@dataclass(frozen=True, eq=False)
class Schedule:
    """A diffusion process q: the betas of K timesteps, and the tables that follow from them, float64 [K] each.

    betas: float64 [K] in (0, 1].  timesteps: the K timesteps, increasing, out of the `T` of the process that the
    network was trained for.  A process with all T is the full one, with fewer a respaced one, whose timesteps may lie
    between two of the full one's.
    """

    betas: np.ndarray
    timesteps: tuple[int, ...] | tuple[float, ...]
    T: int
    full: "Schedule | None" = None  # the full process of a respaced one

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """abar_t, the product of 1 - beta up to t (Ho et al. 2020, Section 2)."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def curve(self) -> Curve:
        """The full process at every real t."""
        return self.full.curve if self.full else Curve(self.alphas_cumprod)

    @cached_property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """abar_{t-1}; 1 at t = 0."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """Variance of q(x_{t-1} | x_t, x_0), Ho et al. 2020, Eq. 7; 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance_clipped(self) -> np.ndarray:
        """log of posterior_variance, with the value of t = 1 at t = 0, whose variance is 0; log beta where K = 1."""
        if len(self) == 1:
            return np.log(self.betas)
        return np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))

    @cached_property
    def posterior_mean_coef1(self) -> np.ndarray:
        """Coefficient of x_start in the posterior mean, Ho et al. 2020, Eq. 7."""
        return self.betas * np.sqrt(self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_mean_coef2(self) -> np.ndarray:
        """Coefficient of x_t in the posterior mean, Ho et al. 2020, Eq. 7."""
        return (1 - self.alphas_cumprod_prev) * np.sqrt(1 - self.betas) / (1 - self.alphas_cumprod)


def possible(name: str, T: int) -> bool:
    """True if the schedule has valid betas for T timesteps, all of them below 1."""
    return bool(BETAS[name](T).max() < 1)


def named(name: str, T: int, ends_in_noise: bool = False) -> Schedule:
    """The full process with T timesteps.  ends_in_noise: rescaled to zero terminal SNR, for T of at least 2.

    Raises UserError where the schedule has no valid betas: `linear` needs T of at least 21.
    """
    betas = BETAS[name](T)
    if not possible(name, T):
        raise UserError(
            f"noise_schedule {name} with diffusion_steps {T} has betas up to {betas.max():.3g}, and none may be "
            "1 or above, where nothing of the image is left: use at least 21 diffusion steps, or the cosine schedule.",
            code="bad-schedule",
        )
    return Schedule(zero_terminal_snr(betas) if ends_in_noise else betas, tuple(range(T)), T)


def respaced(schedule: Schedule, timesteps: Sequence[float]) -> Schedule:
    """The respaced process that visits only `timesteps` of a full one (Nichol & Dhariwal 2021, Eq. 19).

    ints are looked up in its tables; floats, which may lie between two, in its curve.
    """
    visited: tuple[int, ...] | tuple[float, ...]
    if all(isinstance(t, int) for t in timesteps):
        whole = [int(t) for t in timesteps]
        abar, visited = schedule.alphas_cumprod[whole], tuple(int(schedule.timesteps[t]) for t in whole)
    else:
        abar, visited = schedule.curve.abar(np.array(timesteps)), tuple(map(float, timesteps))
    betas = 1 - abar / np.append(1.0, abar[:-1])
    return Schedule(betas, visited, schedule.T, schedule.full or schedule)


def space_timesteps(T: int, spec: str) -> list[int]:
    """The timesteps, increasing, that a respacing string keeps of T.

    "" keeps all.  "250" keeps 250, evenly spread from the first to the last.  "10,15,20" cuts the process
    into three equal parts and keeps 10, 15 and 20 of them.  "ddim50" keeps 50 at an integer stride from 0
    (Song et al. 2021).  A single step is always the last, noisiest one.  Raises UserError for one that T cannot give.
    """
    if not spec:
        return list(range(T))
    if spec.startswith("ddim"):
        count = _positive(spec.removeprefix("ddim"), spec, T)
        if count == 1:
            return [T - 1]
        for stride in range(1, T + 1):
            if len(range(0, T, stride)) == count:
                return list(range(0, T, stride))
        even = f", or {str(count)!r} for even spacing" if count <= T else ""
        raise UserError(
            f"timestep_respacing {spec!r}: no whole stride through {plural(T, 'timestep')} makes"
            f" {plural(count, 'step')}; use one that does ({_nearest_ddim(T, count)}){even}.",
            code="bad-respacing",
        )
    counts = [_positive(part, spec, T) for part in spec.split(",")]
    if counts == [1]:
        return [T - 1]  # one step has to start from pure noise; improved-diffusion keeps t = 0 here, and fails
    if len(counts) > T:
        raise UserError(
            f"timestep_respacing {spec!r}: has {len(counts)} parts for {plural(T, 'timestep')}; give at most {T}.",
            code="bad-respacing",
        )
    base, extra = divmod(T, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = base + (section < extra)
        if count > size:
            raise UserError(
                f"timestep_respacing {spec!r}: asks for {plural(count, 'step')} where there"
                f" {'is' if size == 1 else 'are'} {size:,} (part {section + 1} of {len(counts)} of"
                f" {plural(T, 'timestep')}); ask for at most {size}.",
                code="bad-respacing",
            )
        spacing = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0  # summed up, not multiplied: the same rounding as improved-diffusion
        for _ in range(count):
            kept.append(start + round(position))
            position += spacing
        start += size
    return sorted(set(kept))


def respacing(T: int, steps: int, ddim: bool) -> str:
    """The respacing string that keeps `steps` (1 .. T) of T timesteps: at DDIM's whole stride where T has one."""
    if steps >= T:
        return ""
    strided = len(range(0, T, -(-T // steps))) == steps
    return f"ddim{steps}" if ddim and strided else str(steps)


def _positive(text: str, spec: str, T: int) -> int:
    digits = text.strip()
    if digits.isdecimal() and len(digits) < 20 and int(digits) > 0:  # a longer one Python may refuse to read
        return int(digits)
    good = [f"'{min(50, T)}'", f"'ddim{_strided(T, 50)[0]}'"]
    if T >= 3:
        good.append(f"or one count per part as '{','.join(str(min(count, T // 3)) for count in (10, 15, 20))}'")
    raise UserError(
        f"timestep_respacing {spec!r} is not a number of steps: write {', '.join(good)}.", code="bad-respacing"
    )


def _strided(T: int, count: int) -> list[int]:
    """Numbers of steps that whole strides through T timesteps give, those nearest to `count` first."""
    return sorted({len(range(0, T, stride)) for stride in range(1, T + 1)}, key=lambda n: abs(n - count))


def _nearest_ddim(T: int, count: int) -> str:
    return ", ".join(f"ddim{n}" for n in sorted(_strided(T, count)[:2]))
