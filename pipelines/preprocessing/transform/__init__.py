"""The transform, as compiled kernels and as a tf.Transform graph, and the check of one by the other."""
