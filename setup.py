"""For tools that ask for setup.py; the metadata are in pyproject.toml."""

import setuptools

setuptools.setup()
