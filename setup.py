"""Packaging; settings of the tools are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "tf_direct_opt/__init__.py").read_text(), re.MULTILINE
)[1]

EXAMPLES = [
    "importlib_resources",  # Imported by tensorflow-datasets 4.9.10, which does not declare it.
    "matplotlib",
    "scikit-learn",
    "tensorflow-datasets>=4.9.10",
]
SOLVERS = ["scipy"]  # Assignment and PairwiseBinaryMILP (HiGHS).
MAXFLOW = ["PyMaxflow"]  # PairwiseBinaryMaxFlow; GPL, therefore an extra of its own.
TEST = ["networkx", "pytest>=8", "pytest-cov", "pytest-xdist", "ruff", *SOLVERS, *MAXFLOW]

setuptools.setup(
    name="tf_direct_opt",
    version=VERSION,
    description="Direct optimisation through argmax: discrete latent variables in Keras",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["tf_direct_opt", "tf_direct_opt.*"]),
    package_data={"tf_direct_opt": ["py.typed"]},
    install_requires=[
        "absl-py",
        "keras>=3.15,<4",
        "numpy",
        "tensorboard>=2.20",  # TensorFlow 2.21 no longer depends on it.
        "tensorflow>=2.21,<2.22",
        "tensorflow-probability[tf]>=0.25",
    ],
    extras_require={
        "examples": EXAMPLES,
        "maxflow": MAXFLOW,
        "solvers": SOLVERS,
        "test": EXAMPLES + TEST,
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
