"""Image diffusion models on the computer at hand: train, watch, sample.  See README.md for a tour."""

__version__ = "0.1.0"
