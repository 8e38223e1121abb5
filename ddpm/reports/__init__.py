"""Results as files that people open: spreadsheets, contact sheets, animations, tables.
They read results; they compute none.
"""
