"""Tuning an encoder on a manifest's images, before its features are extracted again."""
