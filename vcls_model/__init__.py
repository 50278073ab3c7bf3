"""Multi-label video classification: record schemas, metrics, models and training."""

__version__ = "0.1.0"
