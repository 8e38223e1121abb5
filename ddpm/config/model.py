"""Settings of the network and of the diffusion process."""

from dataclasses import dataclass

from ddpm import schedules
from ddpm.config.fields import ints, setting


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net.  It is improved-diffusion's: same flags, same tensors."""

    image_size: int = setting(
        64,
        "Width and height of the pictures. Each level but the last halves it, so it must divide that often.",
        label="Image size",
        low=4,
        high=1024,
        unit="pixels",
        basic=True,
    )
    small_size: int = setting(
        0,
        "Super-resolution: width and height of the small pictures that the network enlarges to the image size. 0: it"
        " draws from noise alone.",
        label="Small size",
        low=0,
        high=1024,
        unit="pixels",
        group="Super-resolution",
    )
    image_channels: int = setting(
        3,
        "Channels of a picture: 3 is colour, 1 is grey, 4 is colour with transparency.",
        label="Image channels",
        low=1,
        high=4,
        group="Layers",
    )
    num_channels: int = setting(
        128,
        "Width of the network at full resolution. Twice as many make a step about four times as slow, and pictures"
        " better.",
        label="Channels",
        low=32,
        high=1024,
        basic=True,
    )
    num_res_blocks: int = setting(
        2,
        "Residual blocks per level. More of them make a deeper, slower network.",
        label="Residual blocks",
        low=1,
        high=8,
        basic=True,
    )
    channel_mult: str = setting(
        "",
        "Width of each level as a multiple of Channels, such as 1,2,2,2. Empty: chosen by image size.",
        label="Channel multipliers",
        group="Layers",
    )
    num_heads: int = setting(
        4,
        "Attention heads. They must divide the channels wherever there is attention.",
        label="Attention heads",
        low=1,
        high=64,
        group="Layers",
    )
    num_heads_upsample: int = setting(
        -1,
        "Attention heads in the second half of the network; -1 is as many as in the first.",
        label="Heads, upsampling",
        low=-1,
        high=64,
        group="Layers",
    )
    num_head_channels: int = setting(
        -1,
        "Channels of an attention head, as in guided-diffusion: wider levels have more heads, and Attention heads is"
        " not used. -1: as many heads at every level.",
        label="Channels per head",
        low=-1,
        high=1024,
        group="Layers",
    )
    use_new_attention_order: bool = setting(
        False,
        "Whether attention keeps all heads' queries together, then keys, then values, as some networks of"
        " guided-diffusion do, rather than head by head.",
        label="New attention order",
        group="Layers",
    )
    attention_resolutions: str = setting(
        "16,8",
        "Sizes of the feature map at which attention is used, such as 16,8. Empty: only in the middle.",
        label="Attention at",
        group="Layers",
    )
    dropout: float = setting(
        0.0,
        "Share of activations dropped while training. 0.1 to 0.3 keeps small data sets from being learnt by heart.",
        label="Dropout",
        low=0.0,
        high=0.95,
        group="Layers",
    )
    class_cond: bool = setting(
        False,
        "Learn the classes of the data too, so that one can be asked for when sampling.",
        label="Class-conditional",
        basic=True,
    )
    num_classes: int = setting(
        0,
        "Number of classes when class-conditional; 0 is as many as the data has.",
        label="Classes",
        low=0,
        high=100000,
        group="Layers",
    )
    cond_drop_prob: float = setting(
        0.0,
        "Class-conditional: share of the pictures whose class is hidden while training, so that drawing can be guided"
        " towards a class (classifier-free guidance). 0.1 is usual.",
        label="Hide classes",
        low=0.0,
        high=1.0,
        group="Layers",
    )
    learn_sigma: bool = setting(
        False,
        "The network also predicts the variance of each step; its output has twice the channels.",
        label="Learned variance",
        basic=True,
    )
    use_checkpoint: bool = setting(
        False,
        "Recompute activations in the backward pass: less memory, about a third slower.",
        label="Save memory",
        group="Layers",
    )
    use_scale_shift_norm: bool = setting(
        True,
        "The timestep scales and shifts each normalisation, rather than being added before it.",
        label="Scale-shift norm",
        group="Layers",
    )

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Width of each level as a multiple of num_channels."""
        return ints("channel_mult", self.channel_mult) or default_multipliers(self.image_size)

    @property
    def attention_sizes(self) -> tuple[int, ...]:
        return ints("attention_resolutions", self.attention_resolutions)

    @property
    def heads_up(self) -> int:
        return self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample

    def heads(self, channels: int, up: bool = False) -> int:
        """Attention heads where there are so many channels; up: in the second half of the network."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.heads_up if up else self.num_heads

    @property
    def label_slots(self) -> int:
        """Rows of the label embedding: one for each class, and where classes are hidden one more, the last, for none."""
        return self.num_classes + (self.cond_drop_prob > 0) if self.class_cond else 0

    @property
    def super_res(self) -> bool:
        """Whether the network also sees a small picture, which it enlarges."""
        return self.small_size > 0

    @property
    def in_channels(self) -> int:
        return self.image_channels * (2 if self.super_res else 1)

    @property
    def out_channels(self) -> int:
        return self.image_channels * (2 if self.learn_sigma else 1)


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, and what the network predicts about it."""

    diffusion_steps: int = setting(
        1000, "Timesteps T of the diffusion process.", label="Diffusion steps", low=1, high=100000, basic=True
    )
    noise_schedule: str = setting(
        "linear",
        "How noise grows over the timesteps. Cosine keeps more of the picture for longer, which helps at 64 pixels and"
        " below.",
        label="Noise schedule",
        choices=lambda: tuple(schedules.BETAS),
        basic=True,
    )
    timestep_respacing: str = setting(
        "",
        "Train on a shortened process: 250, 10,15,20 or ddim50. Empty: all timesteps.",
        label="Respacing",
        group="Process",
    )
    sigma_small: bool = setting(
        False,
        "Sample with the smaller of the two fixed variances (the posterior's) rather than the larger (beta).",
        label="Small variance",
        group="Process",
    )
    predict_xstart: bool = setting(
        False,
        "The network predicts the clean picture rather than the noise.",
        label="Predict x_start",
        group="Objective",
    )
    predict_xprev: bool = setting(
        False,
        "The network predicts the slightly less noisy picture, rather than the noise.",
        label="Predict previous x",
        group="Objective",
    )
    learned_range: bool = setting(
        True,
        "A learned variance is a place between the two fixed ones. Off: the network says the variance itself, which is"
        " harder to learn.",
        label="Variance as a range",
        group="Objective",
    )
    use_kl: bool = setting(
        False,
        "Minimise the variational bound (L_vlb) instead of the squared error: better likelihood, noisier training. Goes"
        " well with the loss-second-moment sampler.",
        label="Minimise the bound",
        group="Objective",
    )
    rescale_learned_sigmas: bool = setting(
        True,
        "With a learned variance, weigh the bound down to a thousandth per timestep (L_hybrid), so that it leaves the"
        " squared error alone.",
        label="Rescale the bound",
        group="Objective",
    )
    rescale_timesteps: bool = setting(
        True,
        "Show the network timesteps on a scale of 0 to 1000, whatever T is.",
        label="Rescale timesteps",
        group="Process",
    )


def default_multipliers(image_size: int) -> tuple[int, ...]:
    """improved-diffusion's at 32, 64 and 256; elsewhere the nearest smaller size's, cut to levels that divide."""
    known = {1: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
    mult = known[max(size for size in known if size <= image_size)]
    while len(mult) > 1 and (image_size % 2 ** (len(mult) - 1) or image_size // 2 ** (len(mult) - 1) < 4):
        mult = mult[:-1]
    return mult
