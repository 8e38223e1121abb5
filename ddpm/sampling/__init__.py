"""From a network to images: samplers, editing, sampling into a folder.
Which checkpoint is meant is settled in `ddpm.checkpoints`.
"""
