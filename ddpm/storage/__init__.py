"""Bytes on disk: paths, atomic files, locks, arrays and images.  Nothing here knows what a run,
a setting or a network is.
"""
