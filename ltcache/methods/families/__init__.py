"""The catalogue's entries, by what they change: losses, second stages, experts, class texts."""
