"""Records: schemas, shards, vocabulary and splits, read and written without Beam, TensorFlow or Keras."""
