"""Torch on this computer: processes that compute together, precisions, the machine.  Networks are in `ddpm.models`."""
