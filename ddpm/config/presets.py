"""Settings to start from, as data."""

from pathlib import Path
from typing import Any, NamedTuple

from ddpm.config.codec import replace
from ddpm.config.training import Config

OURS, RELEASED = "ours", "Released with improved-diffusion"


class Preset(NamedTuple):
    """A name for people, and how it differs from the defaults."""

    title: str
    description: str
    settings: dict[str, Any]
    group: str = OURS
    file: str = ""  # of the released model that was trained with these settings

    @property
    def config(self) -> Config:
        return replace(Config(), self.settings)


# fmt: off
PRESETS = {
    "quick-start": Preset(
        "Quick start",
        "Coloured shapes, drawn by the program. Recognisable within three minutes on two cores.",
        dict(
            data_dir="shapes", image_size=32, num_channels=32, num_res_blocks=1, channel_mult="1,2,2",
            num_heads=2, attention_resolutions="8", class_cond=True, cond_drop_prob=0.1,
            noise_schedule="cosine", predict_xstart=True, total_steps=1000, batch_size=16, lr=1e-3,
            lr_warmup_steps=50, ema_rate="0.995", log_interval=5, save_interval=250, sample_interval=100, preview_steps=15,
        ),
    ),
    "cifar10-cpu": Preset(
        "CIFAR-10 on a CPU",
        "Small photographs, a network that one computer can train in a day.",
        dict(
            data_dir="cifar10", image_size=32, num_channels=64, num_res_blocks=2, diffusion_steps=1000,
            noise_schedule="linear", lr=1e-4, batch_size=8, microbatch=4, total_steps=30_000,
            save_interval=5000, sample_interval=1000, ema_rate="0.999,0.9999",
        ),
    ),
    "cifar10-paper": Preset(
        "CIFAR-10 as in the paper",
        "Improved DDPM's unconditional CIFAR-10 network with the simple loss: weeks on a CPU, a day on a GPU.",
        dict(
            data_dir="cifar10", image_size=32, num_channels=128, num_res_blocks=3, dropout=0.3,
            diffusion_steps=4000, noise_schedule="cosine", lr=1e-4, batch_size=128, microbatch=16,
            total_steps=500_000, ema_warmup=False,
        ),
    ),
}

_COSINE = dict(learn_sigma=True, diffusion_steps=4000, noise_schedule="cosine", ema_warmup=False)
_CIFAR10 = dict(data_dir="cifar10", image_size=32, num_channels=128, num_res_blocks=3, dropout=0.3, lr=1e-4, batch_size=128, **_COSINE)
_IMAGENET64 = dict(image_size=64, num_channels=128, num_res_blocks=3, lr=1e-4, batch_size=128, **_COSINE)
_VLB = dict(use_kl=True, schedule_sampler="loss-second-moment")
_PLAIN = dict(rescale_learned_sigmas=False, rescale_timesteps=False)
_LSUN = dict(
    image_size=256, num_channels=128, num_res_blocks=2, num_heads=1, learn_sigma=True, use_scale_shift_norm=False,
    attention_resolutions="16", diffusion_steps=1000, noise_schedule="linear", batch_size=128, ema_warmup=False, **_PLAIN,
)
_UPSAMPLE = dict(
    image_size=256, small_size=64, num_channels=192, num_res_blocks=2, learn_sigma=True, class_cond=True,
    diffusion_steps=4000, noise_schedule="linear", lr=3e-4, batch_size=256, ema_warmup=False, **_PLAIN,
)
_RELEASED = {
    "imagenet64-uncond": ("ImageNet-64", "L_hybrid, 1,500,000 steps.", 1_500_000, "imagenet64_uncond_100M_1500K.pt", _IMAGENET64),
    "cifar10-uncond": ("CIFAR-10", "L_hybrid, 500,000 steps.", 500_000, "cifar10_uncond_50M_500K.pt", _CIFAR10),
    "imagenet64-cond": ("ImageNet-64, class-conditional", "270 M weights, 250,000 steps.", 250_000, "imagenet64_cond_270M_250K.pt", {**_IMAGENET64, **_PLAIN, "num_channels": 192, "class_cond": True, "lr": 3e-4, "batch_size": 2048}),
    "upsample-cond": ("64 to 256 pixels", "Class-conditional super-resolution of ImageNet, 500,000 steps.", 500_000, "upsample_cond_500K.pt", _UPSAMPLE),
    "lsun-uncond": ("LSUN bedrooms", "256 pixels, 1,200,000 steps.", 1_200_000, "lsun_uncond_100M_1200K_bs128.pt", {**_LSUN, "lr": 1e-4}),
    "lsun-uncond-lr2e-5": ("LSUN bedrooms, slower", "256 pixels, 2,400,000 steps at a lower learning rate.", 2_400_000, "lsun_uncond_100M_2400K_bs64.pt", {**_LSUN, "lr": 2e-5}),
    "imagenet64-uncond-vlb": ("ImageNet-64, likelihood", "L_vlb with importance sampling, 1,500,000 steps.", 1_500_000, "imagenet64_uncond_vlb_100M_1500K.pt", {**_IMAGENET64, **_VLB}),
    "cifar10-uncond-vlb": ("CIFAR-10, likelihood", "L_vlb with importance sampling, 500,000 steps.", 500_000, "cifar10_uncond_vlb_50M_500K.pt", {**_CIFAR10, **_VLB}),
}
# fmt: on

PRESETS |= {
    name: Preset(title, description, {**settings, "total_steps": steps}, RELEASED, file)
    for name, (title, description, steps, file, settings) in _RELEASED.items()
}

DEFAULT = "quick-start"


def of_file(path: Path) -> str:
    """The name of the preset of a released model's file, by the file's name; empty for any other file."""
    return next((name for name, preset in PRESETS.items() if preset.file and preset.file == path.name), "")
