"""Imports what the pages need before anybody asks for one, and keeps the garbage collector away from it."""

import gc
import importlib
import pkgutil
import threading

import pages.ui


def begin() -> None:
    """Starts it beside the server, which answers meanwhile."""
    threading.Thread(target=load, name="warm", daemon=True).start()


def load() -> None:
    """Imports all that the pages are made of."""
    for module in pkgutil.walk_packages(pages.ui.__path__, f"{pages.ui.__name__}."):
        importlib.import_module(module.name)
    # Streamlit collects garbage after every run of a page and of a fragment.  The collector then looks at all that
    # was ever imported, a tenth of a second each time, unless that is set aside.
    gc.collect()
    gc.freeze()
