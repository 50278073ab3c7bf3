"""The same weights give the same logits under every Keras backend that is installed.

`BACKEND_PYTHON` names an interpreter with JAX or PyTorch when they are not installed beside TensorFlow.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.vcls_model.models.test_models import batch_of, build
from vcls_model.models import MODEL_NAMES

COMPARE = """
import sys
from pathlib import Path
import keras, numpy as np
import vcls_model.layers
folder = Path(sys.argv[1])
for file in sorted(folder.glob("*.keras")):
    data = np.load(folder / f"{file.stem}.npz")
    model = keras.saving.load_model(file)
    got = model({name: data[name] for name in data if name != "logits"}, training=False)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(got), data["logits"], rtol=1e-3, atol=1e-4, err_msg=file.stem)
    print(keras.backend.backend(), file.stem, "agrees")
"""


@pytest.mark.long
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_agree_with_tensorflow(backend: str, tmp_path: Path) -> None:
    python = os.environ.get("BACKEND_PYTHON", sys.executable)
    if subprocess.run([python, "-c", f"import {backend}"], capture_output=True).returncode:
        pytest.skip(f"{backend} is not installed")
    write_cases(tmp_path)
    environment = {**os.environ, "KERAS_BACKEND": backend}
    root = ROOT
    done = subprocess.run(
        [python, "-c", COMPARE, str(tmp_path)], env=environment, cwd=root, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("agrees") == len(MODEL_NAMES)


def write_cases(folder: Path) -> None:
    """Each model, a batch for it and the logits that it gives here."""
    for name in MODEL_NAMES:
        model = build(name, head="label_graph", linear_skip=True, modality_norm="l2")
        batch = batch_of(name)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", logits=keras.ops.convert_to_numpy(model(batch)), **batch)
