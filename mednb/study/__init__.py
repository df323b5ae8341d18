"""A study: a file of values becomes a graph of notebooks, and each notebook runs strictly in a process of its own."""
