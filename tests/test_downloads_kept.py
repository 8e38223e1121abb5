"""A file made for a download is there until it is fetched, whatever runs meanwhile."""

import pytest
from streamlit.runtime.media_file_manager import MediaFileManager
from streamlit.runtime.media_file_storage import MediaFileStorageError
from streamlit.runtime.memory_media_file_storage import MemoryMediaFileStorage

from pages.server import downloads


def test_fragments_that_run_meanwhile_do_not_remove_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryMediaFileStorage("/media")
    manager = MediaFileManager(storage)
    now = 1000.0
    monkeypatch.setattr(downloads.time, "monotonic", lambda: now)
    downloads.keep(manager)
    asked = manager.add_deferred(lambda: b"step,loss", "text/csv", "1.2", file_name="progress.csv")
    name = manager.execute_deferred(asked).rpartition("/")[2]
    for _ in range(20):  # two fragments, each run every second
        manager.clear_session_refs()
        manager.remove_orphaned_files()
        now += 0.5
        assert storage.get_file(name).content == b"step,loss"
    for _ in range(2):
        now += downloads.APART
        manager.remove_orphaned_files()
    with pytest.raises(MediaFileStorageError):
        storage.get_file(name)
