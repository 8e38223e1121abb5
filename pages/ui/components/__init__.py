"""Parts without knowledge of runs: fields, figures, canvas, thumbnails."""
