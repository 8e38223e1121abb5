"""Weights from anyone's file: read, written, recognised, checked.  What is done with them belongs to sampling and
training.
"""
