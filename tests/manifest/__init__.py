"""Tests of the manifests: every published form reads to the same canonical rows."""
