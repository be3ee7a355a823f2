"""The layerwise engine: trains one decoder layer at a time, an 8B model on a small GPU.

To autograd the decoder is a single function. Each layer saves only its input; its gradients are
written by hand, so that the lifetime of every buffer is known and
:mod:`the_block_llm.models.layerwise.planner.memory_model` can predict the memory of a run.
"""
