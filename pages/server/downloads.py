"""Files that were made for a download, kept until a browser has fetched them."""

import time

from streamlit.runtime.media_file_manager import MediaFileManager

APART = 30.0  # seconds between two looks for files that nobody shows, at least


def keep(manager: MediaFileManager) -> None:
    """Has Streamlit look for files that nobody shows only every APART seconds.

    It looks after every run of a page or fragment, in any tab, and removes a download at the second look: that may be
    within a second, before a slow browser, or one far away, has asked for it.
    """
    remove, last = manager.remove_orphaned_files, float("-inf")

    def seldom() -> None:
        nonlocal last
        if time.monotonic() - last >= APART:
            last = time.monotonic()
            remove()

    manager.remove_orphaned_files = seldom  # type: ignore[method-assign]
