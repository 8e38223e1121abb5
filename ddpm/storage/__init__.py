"""Files on disk: paths, atomic writes, locks, arrays and images.  Imports nothing of runs, settings or networks."""
