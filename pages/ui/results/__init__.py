"""What came out, shown: curves, samples, tables, comparisons."""
