"""A network that is quick to train, as flags."""

import shlex

MODEL_FLAGS = shlex.split(
    "--image_size 8 --num_channels 32 --num_res_blocks 1 --channel_mult 1 --num_heads 1 --attention_resolutions 8 "
    "--diffusion_steps 20 --noise_schedule cosine"
)
