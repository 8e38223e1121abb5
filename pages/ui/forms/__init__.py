"""One form per module: a function that shows fields and returns their values."""
