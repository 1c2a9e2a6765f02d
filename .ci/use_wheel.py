"""Uses the installed package as a stranger does, from a folder that is not the checkout."""

import importlib.metadata
import importlib.resources
import pathlib
import sys

import keras
import numpy as np

import tf_direct_opt as tdo

home = pathlib.Path(tdo.__file__).resolve()
assert home.is_relative_to(pathlib.Path(sys.prefix).resolve()), home
assert importlib.metadata.version("tf_direct_opt") == tdo.__version__
assert importlib.resources.files(tdo).joinpath("py.typed").is_file()
for name in tdo.__all__:
    assert getattr(tdo, name) is not None

keras.utils.set_random_seed(0)
images = np.random.default_rng(0).integers(2, size=(32, 8)).astype("float32")
model = tdo.models.DiscreteVAE(num_variables=1, num_categories=4)
model.compile("adam")
model.fit(images, epochs=1, verbose=0)
model.save("model.keras")
loaded = keras.saving.load_model("model.keras")
measured, again = (m.evaluate(images, verbose=0, return_dict=True) for m in (model, loaded))
assert measured == again, (measured, again)
assert 0 < measured["loss"] < np.inf, measured
print(f"{home.parent} trains, saves and loads: loss {measured['loss']:.3f}")
