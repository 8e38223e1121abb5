"""Settings to start from, as data."""

from typing import Any, NamedTuple

from ddpm.config import Config, replace


class Preset(NamedTuple):
    """A name for people, and how it differs from the defaults."""

    title: str
    description: str
    settings: dict[str, Any]

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
            num_heads=2, attention_resolutions="8", class_cond=True, noise_schedule="cosine",
            predict_xstart=True, total_steps=1000, batch_size=16, lr=1e-3, lr_warmup_steps=50, ema_rate="0.995",
            log_interval=5, save_interval=250, sample_interval=100, preview_steps=15,
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
# fmt: on

DEFAULT = "quick-start"
