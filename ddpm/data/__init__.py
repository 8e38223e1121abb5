"""Data sets: from image files on disk to batches of pixels and labels.  Imports no torch."""
