"""Views of results: curves, samples, tables, comparisons."""
