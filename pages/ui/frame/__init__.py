"""Frame of every page: layout and error boxes, the watched runs, their status, progress of jobs."""
