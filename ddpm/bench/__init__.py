"""How fast things are: timing, in processes of their own.  Nothing in the package depends on it."""
