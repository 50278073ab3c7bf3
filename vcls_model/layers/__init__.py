"""Keras 3 layers on `keras.ops`: they run under TensorFlow, JAX and PyTorch."""
