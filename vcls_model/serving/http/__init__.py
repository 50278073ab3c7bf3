"""The service: a live socket, files, TensorFlow Serving's and KServe's addresses, metrics and the page."""
