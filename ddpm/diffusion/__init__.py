"""The diffusion process as the papers write it: q, p, losses, timestep samplers.  Neither networks nor files."""
