"""The web server in front of the pages: under which address it is reached, and who may come in.  No screens."""
