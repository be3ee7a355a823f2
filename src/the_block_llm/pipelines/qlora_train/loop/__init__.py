"""The training loop: Trainer, arguments, callbacks, and the complete run."""
