"""Runs: folders of results that a killed process can go on with.

`Run` is for any Keras model and any script. The other files are what programs that train VAEs
have in common: `batches.py`, and as flags of a command line `training.py` and `vae_flags.py`;
`command_line.py` answers mistakes in one line. TensorFlow is imported only when a model is there.
"""

from tf_direct_opt.runs.run import Run

__all__ = ["Run"]
