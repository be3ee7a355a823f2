"""Tasks made from the repository itself: one right answer, distractors from the same place.

Their material was committed after the cut-off; what is asked about existed before it.
"""
