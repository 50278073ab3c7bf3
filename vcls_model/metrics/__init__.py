"""Metrics of multi-label classification from mergeable counts: numpy and numba, no Beam, TensorFlow or Keras.

`accumulator` counts, `result` turns counts into figures and files, `catalogue` names the figures. `segments` and
`slices` are the same for the segment task and by the value of a context feature. Modules are imported by name, so that
a command that only prints its help does not load the compiler.
"""
