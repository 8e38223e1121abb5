"""Studying a checkpoint: likelihood, comparison of solvers, the trajectory of a sample.
Results are files in the run folder.
"""
