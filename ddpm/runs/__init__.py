"""Run folders, and the processes that work in them as their files show them.

The work itself belongs to other packages: training, sampling, analysis.
"""
