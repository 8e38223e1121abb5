"""Torch on this computer: processes that compute together, precisions, its description.
Networks belong to `ddpm.models`.
"""
