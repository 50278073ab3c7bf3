"""What the job leaves out when it imports TensorFlow can be had afterwards."""

import subprocess
import sys

from tests.conftest import ROOT

CODE = """
import sys
from pipelines.preprocessing.transform.lean_import import import_transform
import_transform()
assert "tensorflow_transform" in sys.modules
assert "keras.src.optimizers" not in sys.modules and "sklearn" not in sys.modules
import keras, sklearn, tensorflow as tf
assert keras.optimizers.Adam() and tf.keras.layers.Dense(2) and sklearn.__version__
"""


def test_keras_and_scikit_learn_are_spared_but_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
