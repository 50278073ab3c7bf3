"""What `pipelines.preprocess` is made of: statistics, the transform graph, shard steps, manifests, the data card."""
