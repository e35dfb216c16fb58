"""Choosing images for rare classes from an unlabelled pool; the only importer of FAISS."""
