"""The training loop: trainer, arguments, callbacks, and the run around them."""
