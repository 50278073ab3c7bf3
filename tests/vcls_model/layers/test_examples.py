"""The Example of every layer's docstring, run as a doctest."""

import doctest
import inspect

import keras
import pytest

from vcls_model import layers

LAYERS = [name for name in layers.__all__ if inspect.isclass(getattr(layers, name))]


@pytest.mark.parametrize("name", LAYERS)
def test_the_example_of_a_layer_gives_what_it_shows(name: str) -> None:
    layer = getattr(layers, name)
    assert issubclass(layer, keras.layers.Layer)
    module = inspect.getmodule(layer)
    tests = doctest.DocTestFinder(recurse=False).find(layer, name, module, vars(module).copy())
    assert tests and tests[0].examples, f"{name} has no Example"
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(tests[0], out=report.append)
    assert not results.failed, "".join(report)
