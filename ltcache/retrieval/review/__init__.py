"""A result before the eyes of a person: its gallery, its map, and what was decided."""
