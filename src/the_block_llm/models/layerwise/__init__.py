"""The layerwise engine: trains one decoder layer at a time, an 8B model on a small GPU.

Autograd sees a single function. Inside, each layer keeps nothing but its input; its
gradients are written by hand, so that every buffer's life is known and the plan of
:mod:`the_block_llm.models.layerwise.planner.plan_search` can say beforehand what a run will need.
"""
