"""Settings of the network and of the diffusion process."""

from dataclasses import dataclass

from ddpm import schedules, weightings
from ddpm.config.fields import ints, setting

AUGMENTED = 3  # numbers that say how an image was augmented: mirrored, and shifted in two directions
PREDICTIONS = ("eps", "x_start", "v", "x_prev")  # what a network may predict


@dataclass(frozen=True)
class ModelConfig:
    """The U-Net of improved-diffusion, with the same flags and the same tensors."""

    image_size: int = setting(
        64,
        "Width and height of the images. Every level but the last halves the resolution, so the size must be divisible"
        " accordingly.",
        label="Image size",
        low=4,
        high=1024,
        unit="pixels",
        basic=True,
    )
    small_size: int = setting(
        0,
        "Super-resolution: width and height of the low-resolution image that the network upsamples to the image size."
        " 0: no super-resolution.",
        label="Low-resolution size",
        low=0,
        high=1024,
        unit="pixels",
        group="Super-resolution",
    )
    image_channels: int = setting(
        3,
        "Channels of an image: 3 is colour, 1 is greyscale, 4 is colour with transparency.",
        label="Image channels",
        low=1,
        high=4,
        group="Layers",
    )
    num_channels: int = setting(
        128,
        "Width of the network's first level. Doubling it makes a training step about four times slower and"
        " improves sample quality.",
        label="Channels",
        low=32,
        high=1024,
        basic=True,
    )
    patch_size: int = setting(
        1,
        "Side of the squares of pixels that become channels before the network, and pixels again behind it"
        " (space-to-depth). 2: the network works at half the image size, on four times the channels of an image, in"
        " less than half the time at equal width; 64 pixels cost what 32 do without.",
        label="Patch size",
        low=1,
        high=8,
        unit="pixels",
        group="Layers",
    )
    patch_skip_channels: int = setting(
        0,
        "With patches: width of a thin path at full resolution beside the network, for the finest detail. It takes a"
        " few per cent of a step: 32 is usual.",
        label="Channels past the patches",
        empty=(0, "no such path"),
        low=0,
        high=256,
        group="Layers",
    )
    num_res_blocks: int = setting(
        2,
        "Residual blocks per level. More make a deeper and slower network.",
        label="Residual blocks",
        low=1,
        high=8,
        basic=True,
    )
    channel_mult: str = setting(
        "",
        "Width of each level as a multiple of Channels, such as 1,2,2,2.",
        label="Channel multipliers",
        empty=("", "chosen from the image size, in patches if it has any"),
        group="Layers",
    )
    num_heads: int = setting(
        4,
        "Attention heads. They must divide the channels of every attention layer.",
        label="Attention heads",
        low=1,
        high=64,
        group="Layers",
    )
    num_heads_upsample: int = setting(
        -1,
        "Attention heads in the upsampling half of the network.",
        label="Attention heads, upsampling",
        empty=(-1, "as many as in the first half"),
        low=-1,
        high=64,
        group="Layers",
    )
    num_head_channels: int = setting(
        -1,
        "Channels per attention head, as in guided-diffusion: wider levels have more heads, and Attention heads is"
        " ignored.",
        label="Channels per head",
        empty=(-1, "the same number of heads at every level"),
        low=-1,
        high=1024,
        group="Layers",
    )
    use_new_attention_order: bool = setting(
        False,
        "Order of the query, key and value channels in attention: all queries, then all keys, then all values, as in"
        " some guided-diffusion models. Off: head by head.",
        label="New attention order",
        group="Layers",
    )
    attention_resolutions: str = setting(
        "16,8",
        "Resolutions of the feature map at which attention is used, such as 16,8. The first feature map is as large as"
        " the image, divided by the patch size.",
        label="Attention resolutions",
        empty=("", "only in the middle block"),
        group="Layers",
    )
    dropout: float = setting(
        0.0,
        "Share of activations dropped during training. 0.1 to 0.3 reduces overfitting on small data sets.",
        label="Dropout",
        low=0.0,
        high=0.95,
        group="Layers",
    )
    augment: float = setting(
        0.0,
        "Share of the training images that are mirrored, and that are shifted by up to an eighth of their size. The"
        " network sees which, so that samples are neither: more variety from few images, and no overfitting for"
        " longer. 0.15 is usual.",
        label="Augmentation",
        low=0.0,
        high=1.0,
        empty=(0.0, "off"),
        group="Layers",
    )
    class_cond: bool = setting(
        False,
        "Train on the class labels too, so that samples of a given class can be requested.",
        label="Class-conditional",
        basic=True,
    )
    num_classes: int = setting(
        0,
        "Number of classes of a class-conditional model.",
        label="Classes",
        empty=(0, "as many as the data has"),
        low=0,
        high=100000,
        group="Layers",
    )
    cond_drop_prob: float = setting(
        0.0,
        "Class-conditional: share of training images whose class label is dropped, which enables classifier-free"
        " guidance. 0.1 is usual.",
        label="Class dropout",
        low=0.0,
        high=1.0,
        group="Layers",
    )
    learn_sigma: bool = setting(
        False,
        "The network also predicts the variance of each reverse step; its output has twice the channels.",
        label="Learned variance",
        basic=True,
    )
    use_checkpoint: bool = setting(
        False,
        "Recompute activations in the backward pass, about a third slower: half as much memory for them with torch"
        " alone, and at most a fifth less with the native kernels, which keep little.",
        label="Gradient checkpointing",
        group="Layers",
    )
    use_scale_shift_norm: bool = setting(
        True,
        "The timestep embedding scales and shifts each normalisation layer. Off: it is added before the layer.",
        label="Scale-shift norm",
        group="Layers",
    )

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Width of each level as a multiple of num_channels."""
        return ints("channel_mult", self.channel_mult) or default_multipliers(self.map_size)

    @property
    def attention_sizes(self) -> tuple[int, ...]:
        """Resolutions of the feature map at which attention is used."""
        return ints("attention_resolutions", self.attention_resolutions)

    @property
    def heads_up(self) -> int:
        """Attention heads in the upsampling half."""
        return self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample

    def heads(self, channels: int, up: bool = False) -> int:
        """Attention heads of a layer with this number of channels; up: in the upsampling half of the network."""
        if self.num_head_channels != -1:
            return channels // self.num_head_channels
        return self.heads_up if up else self.num_heads

    @property
    def label_slots(self) -> int:
        """Rows of the label embedding: one per class, and with class dropout a last one for "no class"."""
        return self.num_classes + (self.cond_drop_prob > 0) if self.class_cond else 0

    @property
    def super_res(self) -> bool:
        """True if the network is conditioned on a low-resolution image, which it upsamples."""
        return self.small_size > 0

    @property
    def map_size(self) -> int:
        """Width and height of the first feature map: the image size divided by the patch size."""
        return max(1, self.image_size // self.patch_size)

    @property
    def in_channels(self) -> int:
        """Channels of the network's input: x_t, and for super-resolution the upsampled low-resolution image."""
        return self.image_channels * (2 if self.super_res else 1)

    @property
    def out_channels(self) -> int:
        """Channels of the network's output: the prediction, and a learned variance."""
        return self.image_channels * (2 if self.learn_sigma else 1)

    @property
    def edge_channels(self) -> int:
        """Channels of the path at full resolution; 0: there is none."""
        return self.patch_skip_channels if self.patch_size > 1 else 0

    @property
    def inner_in(self) -> int:
        """Channels that the U-Net is given: those of all pixels of a patch."""
        return self.in_channels * self.patch_size**2

    @property
    def inner_out(self) -> int:
        """Channels that the U-Net gives: those of the output and of the path at full resolution, for all pixels."""
        return (self.out_channels + self.edge_channels) * self.patch_size**2


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process and the parameterisation of the network."""

    diffusion_steps: int = setting(
        1000, "Timesteps T of the diffusion process.", label="Diffusion steps", low=1, high=100000, basic=True
    )
    noise_schedule: str = setting(
        "linear",
        "How the noise level grows over the timesteps. Cosine adds noise more slowly, which helps at 64 pixels and"
        " below; sigmoid is close to it, and spends more timesteps on medium noise.",
        label="Noise schedule",
        choices=lambda: tuple(schedules.BETAS),
        basic=True,
    )
    zero_terminal_snr: bool = setting(
        False,
        "Rescale the noise schedule so that nothing of the image is left at the last timestep, where sampling begins:"
        " samples may then be as dark or as bright as the data. For any prediction but eps.",
        label="Zero terminal SNR",
        group="Process",
    )
    timestep_respacing: str = setting(
        "",
        "Train on a subset of the timesteps: 250, 10,15,20 or ddim50.",
        label="Timestep respacing",
        empty=("", "all timesteps"),
        group="Process",
    )
    sigma_small: bool = setting(
        False,
        "Sample with the smaller of the two fixed variances (the posterior's) instead of the larger (beta).",
        label="Small variance",
        group="Process",
    )
    prediction: str = setting(
        "eps",
        "What the network predicts: the noise eps; the clean image x_start; v, which is mostly noise where the image is"
        " clear and mostly image where it is noise, and learns both in a short training; or the previous, less noisy"
        " image x_prev.",
        label="Prediction",
        choices=PREDICTIONS,
        group="Objective",
    )
    loss_weighting: str = setting(
        weightings.NONE,
        "How much the squared error counts at each timestep. none: the same everywhere, as improved-diffusion has it."
        " min-snr and soft-min-snr hold back the least noisy timesteps, p2 too; alpha suits the prediction of v: it"
        " brings back the fine detail to which v alone gives little weight.",
        label="Loss weighting",
        choices=lambda: weightings.NAMES,
        group="Objective",
    )
    weighting_gamma: float = setting(
        0.0,
        "The gamma of min-snr, soft-min-snr or p2: the ratio of signal to noise above which an error counts no more, or"
        " for p2 the exponent.",
        label="Gamma of the weighting",
        low=0,
        high=1000,
        empty=(0.0, "as its paper recommends, 5, and 1 for p2"),
        group="Objective",
    )
    learned_range: bool = setting(
        True,
        "The network predicts a learned variance as an interpolation between the two fixed ones. Off: it predicts the"
        " log variance itself, which is harder to learn.",
        label="Learned range",
        group="Objective",
    )
    use_kl: bool = setting(
        False,
        "Minimise the variational bound (L_vlb) instead of the squared error: better likelihood, noisier training."
        " Works best with the loss-second-moment timestep sampler.",
        label="Train on L_vlb",
        group="Objective",
    )
    rescale_learned_sigmas: bool = setting(
        True,
        "With a learned variance, add a thousandth of the variational bound to the squared error (L_hybrid), whatever"
        " the number of timesteps T. Off: the mean of its terms, 1/T of it.",
        label="Rescale L_vlb",
        group="Objective",
    )
    rescale_timesteps: bool = setting(
        True,
        "Give the network timesteps on a scale of 0 to 1000, whatever T is.",
        label="Rescale timesteps",
        group="Process",
    )

    def full_schedule(self) -> schedules.Schedule:
        """The process with all its timesteps.  Raises UserError where there is no such schedule."""
        return schedules.named(self.noise_schedule, self.diffusion_steps, self.zero_terminal_snr)


def default_multipliers(size: int) -> tuple[int, ...]:
    """Channel multipliers of improved-diffusion at 32, 64 and 256; else of the next smaller size, as many as fit.

    size: width and height of the first feature map.
    """
    known = {1: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
    mult = known[max(n for n in known if n <= size)]
    while len(mult) > 1 and (size % 2 ** (len(mult) - 1) or size // 2 ** (len(mult) - 1) < 4):
        mult = mult[:-1]
    return mult
