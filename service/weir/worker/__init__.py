"""A learner over many processes: ``python -m weir.worker`` under torchrun."""
