"""Runs: folders of results that a killed process can go on with.

`Run` is for any Keras model and any script. The other files are what programs that train VAEs
have in common: images and their batches, the flags of a command line (`*_flags.py`,
`training.py`), and one line for a mistake in it, said before TensorFlow is imported.
"""

from tf_direct_opt.runs.run import Run

__all__ = ["Run"]
