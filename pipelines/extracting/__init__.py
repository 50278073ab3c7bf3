"""What `pipelines.extract` is made of: the plan of files and shards, the labels, the steps, what is stored of each."""
