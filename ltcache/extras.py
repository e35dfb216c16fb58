"""The optional parts of ltcache, and how to install one."""

from __future__ import annotations

EXTRAS = {
    "hf": "datasets",
    "tune": "optuna",
    "onnx": "onnxruntime",
    "report": "plotly",
    "track": "tensorboard",
    "s3": "s3fs",
    "ray": "ray",
}
"""Extra, as setup.cfg names it -> the module that tells whether it is there."""


def how_to_install(*extras: str) -> str:
    """Return the command that adds some extras.

    The project is on no package index, where somebody else could take its name: it is installed
    from its checkout, as the README does.
    """
    return f"pip install '.[{','.join(extras)}]' in the checkout of ltcache"
