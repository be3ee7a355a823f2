"""Multiple-choice tasks built from the repository and its history after the cut-off.

The answers come from commits after the cut-off; the distractors are similar paths, messages or
texts of the same repository.
"""
