"""Injected faults, and the table of what holds under them: `make faults`, or PYTHONPATH=tests python -m faults.

Each module named promise_*.py has a function `rows(seconds)`, which tries what its promises are about for about that
long, and yields a Row for each.
"""
