"""How good samples are: features of images, distances between sets of them, copies of training images.
How samples are made is settled in `ddpm.sampling`; results are files in the run folder.
"""
