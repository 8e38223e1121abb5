"""Prints the table of promises.

    PYTHONPATH=.:tests python -m faults [PART ...] [--seconds S]

PART: saves for promise_saves.py, and so on; all of them by default.  S: for each part, about; 0 tries every point once.
Ctrl-C prints what was found until then.
"""

import argparse
import importlib
import math
import os
import sys
from pathlib import Path

from faults.table import Interrupted, line

PREFIX = "promise_"

os.environ.setdefault("STREAMLIT_LOGGER_LEVEL", "error")  # pages without a browser are what is meant here


def main() -> int:
    """Returns 1 where a promise was broken."""
    names = sorted(path.stem.removeprefix(PREFIX) for path in Path(__file__).parent.glob(f"{PREFIX}*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each part, about; 0: every point once")
    options = parser.parse_args()
    if unknown := set(options.parts) - {*names}:
        parser.error(f"there is no part {min(unknown)}: choose among {', '.join(names)}")
    print("| Promise | Tried | Lost |\n|---|---|---|", flush=True)
    found, interrupted = [], False
    try:
        for name in options.parts or names:
            for row in importlib.import_module(f"faults.{PREFIX}{name}").rows(options.seconds or math.inf):
                found.append(row)
                print(line(row), flush=True)
    except Interrupted as error:
        interrupted = True
        found.append(error.row)
        print(line(error.row), flush=True)
    except KeyboardInterrupt:
        interrupted = True
    for row in found:
        for example in row.examples:
            print(f"\n-- {row.promise}\n{example}")
    return 130 if interrupted else int(any(row.lost for row in found))


if __name__ == "__main__":
    sys.exit(main())
