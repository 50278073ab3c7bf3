import keras
import numpy as np
import pytest
import tensorflow as tf

from vcls_model.commands import UsageError
from vcls_model.training.averaging import WeightAverage
from vcls_model.training.optimizers import ExampleSchedule, FusedAdam
from vcls_model.training.options import ScheduleOptions


def train(optimizer, steps=5):
    """A few steps on fixed gradients; returns the variables."""
    random = np.random.default_rng(3)
    variables = [
        keras.Variable(random.normal(size=(4, 3)).astype(np.float32)),
        keras.Variable(random.normal(size=3).astype(np.float32)),
    ]
    optimizer.build(variables)
    for _ in range(steps):
        grads = [tf.constant(random.normal(size=variable.shape).astype(np.float32)) for variable in variables]
        optimizer.apply(grads, variables)
    return [variable.numpy() for variable in variables]


def test_equals_keras_adam():
    for ours, theirs in zip(train(FusedAdam(0.01)), train(keras.optimizers.Adam(0.01)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_equals_keras_adamw_with_vectors_spared():
    theirs = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    expected = train(theirs)[0], train(keras.optimizers.Adam(0.01))[1]
    for ours, value in zip(train(FusedAdam(0.01, weight_decay=0.1)), expected, strict=True):
        np.testing.assert_allclose(ours, value, atol=1e-6)


def test_clips_by_the_global_norm():
    expected = train(keras.optimizers.Adam(0.01, global_clipnorm=0.5))
    for ours, theirs in zip(train(FusedAdam(0.01, clip_norm=0.5)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rate_scales_are_by_variable():
    start, slow, fast = train(FusedAdam(0.01), 0), train(FusedAdam(0.01, rate_scales=[0, 0.1])), train(FusedAdam(0.01))
    np.testing.assert_array_equal(slow[0], start[0])
    np.testing.assert_allclose(slow[1] - start[1], 0.1 * (fast[1] - start[1]), atol=1e-6)


def test_a_variable_that_learns_later_moves_as_if_it_began_then():
    early, late = keras.Variable(np.zeros(2, np.float32)), keras.Variable(np.zeros(2, np.float32))
    optimizer = FusedAdam(0.01, first_steps=[0, 200])
    optimizer.build([early, late])
    alone, other = FusedAdam(0.01), keras.Variable(np.zeros(2, np.float32))
    alone.build([other])
    random = np.random.default_rng(5)
    for _ in range(200):
        optimizer.apply([tf.ones(2)], [early])
    for _ in range(30):
        grad = tf.constant(random.normal(size=2).astype(np.float32))
        optimizer.apply([tf.ones(2), grad], [early, late])
        alone.apply([grad], [other])
        np.testing.assert_allclose(late.numpy(), other.numpy(), rtol=1e-5, atol=1e-7)
    assert early.numpy() == pytest.approx(-2.3, rel=1e-3)  # a step of the rate each: its correction was not restarted


def test_works_inside_a_compiled_step_with_a_schedule():
    schedule = ExampleSchedule(ScheduleOptions(0.01, "cosine", total_examples=50), 10)
    optimizer = FusedAdam(schedule)
    expected = keras.optimizers.Adam(0.01)
    weights, other = keras.Variable(np.ones(3, np.float32)), keras.Variable(np.ones(3, np.float32))
    optimizer.build([weights])
    step = tf.function(lambda grad: optimizer.apply([grad], [weights]), jit_compile=True)
    for number in range(5):
        grad = tf.constant([1.0, -2.0, 0.5]) * (number + 1)
        step(grad)
        expected.learning_rate = 0.005 * (1 + np.cos(np.pi * number / 5))
        expected.apply([grad], [other])
    np.testing.assert_allclose(weights.numpy(), other.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        (ScheduleOptions(0.1), 1000, 0.1),
        (ScheduleOptions(0.1, warmup_examples=100), 0, 0.01),
        (ScheduleOptions(0.1, warmup_examples=100), 4, 0.05),
        (ScheduleOptions(0.1, warmup_examples=100), 10, 0.1),
        (ScheduleOptions(0.1, "cosine", warmup_examples=100, total_examples=1100), 10, 0.1),
        (ScheduleOptions(0.1, "cosine", warmup_examples=100, total_examples=1100), 60, 0.05),
        (ScheduleOptions(0.1, "cosine", total_examples=1000, floor=0.2), 100, 0.02),
        (ScheduleOptions(0.1, "exponential", decay_rate=0.5, decay_examples=100), 20, 0.025),
    ],
)
def test_schedules_count_examples(options, step, expected):
    assert float(ExampleSchedule(options, 10)(step)) == pytest.approx(expected, rel=1e-5)


def test_a_schedule_survives_its_config():
    schedule = ExampleSchedule(ScheduleOptions(0.1, "exponential"), 10)
    assert ExampleSchedule.from_config(schedule.get_config()).options == schedule.options


@pytest.mark.parametrize(
    "options",
    [
        {"decay": "cosin"},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"warmup_examples": -1},
        {"decay_rate": 2},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        ScheduleOptions(**options)


def test_the_average_of_weights_follows_its_formula_and_swaps():
    variable = keras.Variable(np.zeros(2, np.float32))
    average = WeightAverage([variable], 0.9)
    variable.assign([1.0, 2.0])
    average.follow(tf.constant(3))  # (1 + 3) / (10 + 3) is less than 0.9
    average.swap()
    np.testing.assert_allclose(variable.numpy(), (1 - 4 / 13) * np.array([1, 2]), rtol=1e-6)
    average.swap()
    average.follow(tf.constant(1000))
    average.swap()
    np.testing.assert_allclose(variable.numpy(), (1 - 0.9 * 4 / 13) * np.array([1, 2]), rtol=1e-6)
    average.swap()
    np.testing.assert_allclose(variable.numpy(), [1, 2])


def test_an_optimizer_comes_back_from_its_config():
    schedule = ExampleSchedule(ScheduleOptions(0.01, "cosine", total_examples=100), 10)
    copy = FusedAdam.from_config(FusedAdam(schedule, clip_norm=1.0, weight_decay=0.1).get_config())
    assert copy.clip_norm == 1.0 and copy.decoupled_decay == 0.1
    assert float(copy._learning_rate(5)) == pytest.approx(float(schedule(5)))
