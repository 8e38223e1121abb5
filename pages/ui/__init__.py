"""Shared by the pages: widgets that return values, charts as pure functions, the file watcher and the caches."""
