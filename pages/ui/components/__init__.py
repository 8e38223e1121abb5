"""Components that know nothing of runs: setting widgets, figures, mask canvas, thumbnails."""
