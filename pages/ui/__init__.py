"""What the pages share: widgets that return values, charts as pure functions, the watcher and the caches."""
