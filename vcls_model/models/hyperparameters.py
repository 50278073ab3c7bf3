"""A hyperparameter: its default, its meaning, and how a value is checked. Pure Python."""

import dataclasses
from typing import Any

from vcls_model.commands import UsageError, unknown_choice


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter of one or more models.

    Attributes:
        default: its default; the type of the default is the type of the hyperparameter: bool, int, float, str or a
            tuple of positive integers.
        meaning: one line for the help text.
        may_be_empty: an integer may be 0, a tuple may be empty; otherwise integers are positive and tuples hold one.
        below: a float must lie in [0, below).
        choices: the values of a str.
        of_head: it shapes only layers that depend on the classes, which `--new_head` makes afresh.
        shapes_layers: pretrained weights fit only a model with the same value.
    """

    default: Any
    meaning: str
    may_be_empty: bool = False
    below: float = float("inf")
    choices: tuple[str, ...] = ()
    of_head: bool = False
    shapes_layers: bool = True

    def parse(self, name: str, value: Any) -> Any:
        """`value` as the type of the default; text (from a command line) and lists (from JSON) are converted.

        Raises:
            UsageError: the value is of another type, out of range or not one of the choices.
        """
        try:
            if isinstance(self.default, bool):
                return self._flag(value)
            if isinstance(self.default, int):
                return self._whole_number(name, value)
            if isinstance(self.default, float):
                return self._number(name, value)
            if isinstance(self.default, tuple):
                return self._whole_numbers(name, value)
        except (TypeError, ValueError):
            raise UsageError(f"hyperparameter {name} must be like {self.default!r}, got {value!r}") from None
        if value not in self.choices:
            raise unknown_choice(name, str(value), self.choices)
        return value

    def _flag(self, value: Any) -> bool:
        if isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if not isinstance(value, bool):
            raise ValueError
        return value

    def _whole_number(self, name: str, value: Any) -> int:
        if isinstance(value, float) and value != int(value):
            raise ValueError
        number = int(value)
        if number < 0 or not (number or self.may_be_empty):
            raise UsageError(f"hyperparameter {name} must be positive, got {number}")
        return number

    def _number(self, name: str, value: Any) -> float:
        number = float(value)
        if not 0 <= number < self.below:
            raise UsageError(f"hyperparameter {name} must lie in [0, {self.below:g}), got {number}")
        return number

    def _whole_numbers(self, name: str, value: Any) -> tuple[int, ...]:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        numbers = tuple(int(part) for part in (value if isinstance(value, list | tuple) else [value]))
        if not (numbers or self.may_be_empty) or any(number < 1 for number in numbers):
            raise UsageError(f"hyperparameter {name} must be one or more positive integers, got {numbers}")
        return numbers
