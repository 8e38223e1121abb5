"""One form a module: a function that draws fields and returns what they say."""
