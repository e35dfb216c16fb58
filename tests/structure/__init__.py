"""What is held of the code's own structure: names, imports, sizes (see ``measures``)."""
