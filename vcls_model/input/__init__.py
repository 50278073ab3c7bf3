"""Training input: transformed shards as batches of arrays, in an exact order that survives --resume."""
