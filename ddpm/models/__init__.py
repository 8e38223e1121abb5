"""Networks, and how they are computed.  They know tensors alone: no files, no diffusion process."""
