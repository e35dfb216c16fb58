"""Everything else is declared in setup.cfg."""

from setuptools import find_packages, setup

setup(
    # the lists at the top level travel in the wheel as package data, beside the code
    packages=[*find_packages(include=["ltcache", "ltcache.*"]), "ltcache.data_manifests"],
)
