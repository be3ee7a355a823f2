"""The training loop: Trainer, arguments, callbacks, and the run as a whole."""
