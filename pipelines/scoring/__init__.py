"""Batch scoring: reading shards in blocks, inference, predictions, stored metric aggregates and their merging."""
