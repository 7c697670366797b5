"""Builds fastssm as pyproject.toml declares it; a native extension would be listed here, in ``ext_modules``."""

from setuptools import setup

setup()
