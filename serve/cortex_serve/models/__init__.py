"""Models in a worker: what a handler's `model_client` gives out."""
