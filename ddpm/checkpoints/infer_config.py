"""Infers settings of a network from the shapes of its tensors.  No torch.

Shapes determine channels, patches, multipliers, blocks, attention, classes, augmentation, learned variance, scale-shift
norm and super-resolution.  They do not determine the image size (it is guessed from the levels), the heads, whether the
last label stands for no class, or anything of the diffusion process.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from ddpm import formatting
from ddpm.config.model import ModelConfig, default_multipliers
from ddpm.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]  # name of a tensor -> its shape

USUAL_ATTENTION = {16, 8}  # sizes of the feature map; improved-diffusion's default
AUGMENTED = 0.15  # the usual share of augmented images, where the weights only show that some were
HIDDEN = 0.1  # the usual share of hidden classes, where the weights only show that some were
EVERYWHERE = {
    f"{layer}.{part}"
    for layer in (
        "time_embed.0",
        "time_embed.2",
        "input_blocks.0.0",
        "middle_block.0.in_layers.0",
        "middle_block.1.qkv",
        "middle_block.2.out_layers.3",
        "out.0",
        "out.2",
    )
    for part in ("weight", "bias")
}
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
SIZES = [2**k for k in range(2, 11)]  # of the first feature map, that are guessed
PATCHES = (1, 2, 4, 3, 5, 6, 7, 8)  # patch sizes, the usual ones first


def model_settings(
    shapes: Shapes, source: str, image_size: int = 0, small_size: int = 0, hidden: bool = False, patch_size: int = 1
) -> dict[str, Any]:
    """Infers the model settings, by name, of a network with these tensors.

    hidden: whether its last label stands for no class.  patch_size: what it is where shapes allow several, such as of 4
    channels, which are those of a transparent image, or of a grey one in patches of 2.

    Sizes that are not given are guessed: the image size from the multipliers and from where attention is, the
    small size of a super-resolution network as a quarter of it.  Raises UserError for another kind of network.
    """
    try:
        return _model_settings(shapes, image_size, small_size, hidden, patch_size)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        lacking = str(error.args[0]) if isinstance(error, KeyError) else ""
        why = f"there is no {lacking}" if lacking else str(error)
        if wrapped := next((p for p in WRAPPERS if all(name.startswith(p) for name in shapes)), ""):
            raise UserError(
                f"The names of the tensors in {source} all begin with {wrapped}, which a wrapper around the network put"
                " there: save them without it, as by model.module.state_dict(), and name that file.",
                code="unknown-network",
            ) from error
        alike = len(EVERYWHERE & shapes.keys()) > len(EVERYWHERE) / 2
        if alike and not lacking and not any(".op." in name for name in shapes):
            why = "sizes change in residual blocks, as with guided-diffusion's resblock_updown, which is not supported"
        if alike and lacking:
            raise UserError(
                f"{source} lacks the tensor {lacking}, without which the others are no whole U-Net: take a whole copy.",
                code="unknown-network",
            ) from error
        raise UserError(
            f"{source} holds {formatting.plural(len(shapes), 'tensor')} that are not those of improved-diffusion's"
            f" U-Net ({why}): name a model or ema file that it or this program wrote.",
            code="unknown-network",
        ) from error


def _model_settings(shapes: Shapes, image_size: int, small_size: int, hidden: bool, patch_size: int) -> dict[str, Any]:
    width = shapes["time_embed.0.weight"][1]
    inputs, outputs = shapes["input_blocks.0.0.weight"][1], shapes["out.2.weight"][0]
    edge = shapes.get("edge_in.weight", (0,))[0]
    patch, channels, super_res, learned = _channels(inputs, outputs, edge, patch_size)
    blocks, mult, attended = _levels(shapes, width)
    map_size = image_size // patch or _guess_size(mult, attended)
    size = image_size or map_size * patch
    labels = shapes.get("label_emb.weight")
    first = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
    return dict(
        image_size=size,
        small_size=(small_size or size // 4) if super_res else 0,
        image_channels=channels,
        patch_size=patch,
        patch_skip_channels=edge,
        num_channels=width,
        num_res_blocks=blocks,
        channel_mult="" if default_multipliers(map_size) == mult else ",".join(map(str, mult)),
        attention_resolutions=",".join(str(map_size >> level) for level in attended),
        augment=AUGMENTED if "augment_emb.weight" in shapes else 0.0,
        class_cond=labels is not None,
        num_classes=labels[0] - hidden if labels else 0,
        learn_sigma=learned,
        use_scale_shift_norm=first == 2 * mult[0] * width,
    )


def _channels(inputs: int, outputs: int, edge: int, patch_size: int) -> tuple[int, int, bool, bool]:
    """Returns patch size and channels of an image, whether a small one is an input, and a variance an output.

    edge: channels of the path at full resolution.  patch_size: the first to try.
    """
    for patch, channels, super_res, learned in itertools.product(
        (patch_size, *PATCHES), (1, 3, 4), (False, True), (False, True)
    ):
        pixel = channels * (1 + super_res), channels * (1 + learned) + edge
        if (patch**2 * pixel[0], patch**2 * pixel[1]) == (inputs, outputs):
            return patch, channels, super_res, learned
    raise ValueError(f"{inputs} channels go in and {outputs} come out")


def _levels(shapes: Shapes, width: int) -> tuple[int, tuple[int, ...], list[int]]:
    """Returns residual blocks per level, channel multiplier of each level, and the levels with attention."""
    numbers = sorted({int(m[1]) for name in shapes if (m := re.match(r"input_blocks\.(\d+)\.", name))})
    levels: list[list[tuple[int, bool]]] = [
        []
    ]  # of each level, for each block: channels, and whether attention is there
    for number in numbers[1:]:
        if f"input_blocks.{number}.0.op.weight" in shapes:
            levels.append([])
        else:
            channels = shapes[f"input_blocks.{number}.0.out_layers.3.weight"][0]
            levels[-1].append((channels, f"input_blocks.{number}.1.qkv.weight" in shapes))
    blocks = len(levels[0])
    for level, found in enumerate(levels):
        if len(found) != blocks or len(set(found)) != 1 or found[0][0] % width:
            raise ValueError(f"level {level} is not {blocks} equal blocks of a multiple of {width} channels")
    return (
        blocks,
        tuple(found[0][0] // width for found in levels),
        [level for level, found in enumerate(levels) if found[0][1]],
    )


def _guess_size(mult: tuple[int, ...], attended: list[int]) -> int:
    """Guesses the size of the first feature map at which attention and multipliers are the usual ones."""

    def oddity(size: int) -> tuple[int, bool, int]:
        unusual = {size >> level for level in attended} - USUAL_ATTENTION
        return len(unusual), default_multipliers(size) != mult, abs(size - 32)

    return min((size for size in SIZES if size >> len(mult) - 1 >= 1), key=oddity)


def fitting_flags(shapes: Shapes, model: ModelConfig) -> list[str]:
    """Returns the flags by which `model` would fit the network with these tensors.

    None where that cannot be inferred.
    """
    hidden = model.cond_drop_prob > 0
    rows = shapes.get("label_emb.weight", (0,))[0]
    if model.class_cond and rows in (model.num_classes, model.num_classes + 1):  # the number is right, with or without
        hidden = rows > model.num_classes
    try:
        found = model_settings(shapes, "", model.image_size, model.small_size, hidden, model.patch_size)
    except UserError:
        return []
    if found["augment"] and model.augment:
        found["augment"] = model.augment
    if hidden != (model.cond_drop_prob > 0):
        found["cond_drop_prob"] = HIDDEN if hidden else 0.0
    was = {name: getattr(model, name) for name in found}
    same = (
        model.multipliers,
        {*model.attention_sizes} & {model.map_size >> i for i in range(len(model.multipliers))},
    )
    fits = ModelConfig(**found)
    if (fits.multipliers, {*fits.attention_sizes}) == same:
        found |= {name: was[name] for name in ("channel_mult", "attention_resolutions")}
    # --num_classes 0 would mean "as many as the data has"
    return [flag for name, value in found.items() if value != was[name] for flag in (f"--{name}", str(value) or '""')]
