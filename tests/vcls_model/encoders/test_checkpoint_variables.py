"""TensorFlow's checkpoints are read without TensorFlow: the same arrays as TensorFlow reads."""

from pathlib import Path

import numpy as np
import pytest

from vcls_model.commands import JobError
from vcls_model.encoders.checkpoint_variables import read_float_variables


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    generator = np.random.default_rng(1)
    layers = [tf.Variable(generator.standard_normal((number % 5 + 1, 3)).astype(np.float32)) for number in range(150)]
    holder = tf.train.Checkpoint(layers=layers, scalar=tf.Variable(2.5), whole=tf.Variable([1, 2, 3]))
    return Path(holder.write(str(tmp_path_factory.mktemp("checkpoint") / "variables")))


def test_the_variables_are_those_that_tensorflow_reads(checkpoint: Path) -> None:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(checkpoint))
    floats = {name for name, kind in reader.get_variable_to_dtype_map().items() if kind == tf.float32}
    variables = read_float_variables(checkpoint)
    assert variables.keys() == floats and len(floats) == 151
    for name, value in variables.items():
        np.testing.assert_array_equal(value, reader.get_tensor(name))


def test_a_damaged_index_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.with_name("variables.index").read_bytes()
    data = checkpoint.with_name("variables.data-00000-of-00001").read_bytes()
    (tmp_path / "variables.data-00000-of-00001").write_bytes(data)
    for broken in (b"", whole[:-1], whole[len(whole) // 2 :], bytes(len(whole) - 48) + whole[-48:]):
        (tmp_path / "variables.index").write_bytes(broken)
        with pytest.raises(JobError, match="index is damaged"):
            read_float_variables(tmp_path / "variables")


def test_data_that_is_cut_short_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "variables.index").write_bytes(checkpoint.with_name("variables.index").read_bytes())
    data = checkpoint.with_name("variables.data-00000-of-00001").read_bytes()
    (tmp_path / "variables.data-00000-of-00001").write_bytes(data[:40])
    with pytest.raises(JobError, match="outside the data file"):
        read_float_variables(tmp_path / "variables")
