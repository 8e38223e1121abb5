"""Run folders and the processes that work in them, as files show them.
What the processes do belongs to the packages that do it.
"""
