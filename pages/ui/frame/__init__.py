"""The frame of every page: layout and error boxes, the runs that are watched, their status, progress of jobs."""
