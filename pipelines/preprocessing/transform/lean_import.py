"""Importing tf.Transform without the libraries that it drags in and this job does not use."""

import sys

from vcls_model.quiet import start_tensorflow

# TensorFlow imports Keras for its optimizers (and does without where that fails), and Keras imports scikit-learn
# for its wrappers: together a third of the seconds that the import takes.
_SPARED = ("keras.src.optimizers", "sklearn")


def import_transform() -> None:
    """Imports TensorFlow and tf.Transform, quietly. Keras and scikit-learn stay out; they can be imported later."""
    spared = [name for name in _SPARED if name not in sys.modules] if "tensorflow" not in sys.modules else []
    for name in spared:
        sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail at once
    try:
        start_tensorflow()
        import tensorflow_transform  # noqa: F401
    finally:
        for name in spared:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]
