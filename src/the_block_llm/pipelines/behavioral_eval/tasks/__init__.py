"""Multiple-choice tasks: most are built from commits after the cut-off.

The distractors are similar paths, messages or texts of the same repository. ``file_existence`` asks
about files at the cut-off, and ``general_ability`` is a fixed set.
"""
