"""Which layers of a model learn, when and how fast."""

import dataclasses
import fnmatch
from collections.abc import Sequence

import keras

from vcls_model.commands import UsageError
from vcls_model.models.head import depends_on_classes


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Which layers of a model learn, when and how fast.

    Attributes:
        freeze: globs over layer names and paths; those layers do not learn.
        unfreeze_after: epochs after which they learn too; 0 never.
        rate_scales: (glob over variable paths, factor on the learning rate); the first match counts.
        new_head: the classifier is new: globs that match other layers too, like `*`, leave it free.
    """

    freeze: tuple[str, ...] = ()
    unfreeze_after: int = 0
    rate_scales: tuple[tuple[str, float], ...] = ()
    new_head: bool = False

    def frozen_layers(self, model: keras.Model) -> list[keras.Layer]:
        """The layers that do not learn at first.

        Raises:
            UsageError: a glob matches no layer.
        """
        layers = list(model._flatten_layers(include_self=False, recursive=True))
        frozen: list[keras.Layer] = []
        for glob in self.freeze:
            matching = [layer for layer in layers if _matches(glob, layer.name, layer.path or layer.name)]
            if not matching:
                names = ", ".join(layer.name for layer in model.layers if layer.weights)
                raise UsageError(f"--freeze={glob} matches no layer (layers with weights: {names})")
            body = [layer for layer in matching if not depends_on_classes(layer)]
            frozen += body if self.new_head and body else matching
        return frozen

    def factors(self, variables: Sequence[keras.Variable]) -> list[float] | None:
        """The factor on each variable's learning rate; None when there are no factors.

        Raises:
            UsageError: a glob matches no variable.
        """
        if not self.rate_scales:
            return None
        for glob, _ in self.rate_scales:
            if not any(_matches(glob, variable.path) for variable in variables):
                raise UsageError(
                    f"--learning_rate_scale: {glob!r} matches no variable "
                    f"(variables: {', '.join(variable.path for variable in variables)})"
                )
        return [
            next((factor for glob, factor in self.rate_scales if _matches(glob, variable.path)), 1.0)
            for variable in variables
        ]


def set_frozen(model: keras.Model, layers: Sequence[keras.Layer], frozen: bool) -> None:
    """Freezes layers of a model or lets them learn.

    Raises:
        UsageError: nothing of the model would learn.
    """
    for layer in layers:
        layer.trainable = not frozen
    if not model.trainable_variables:
        raise UsageError("every layer is frozen: nothing is left to train")


def _matches(glob: str, *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in names)
