"""Project settings that Kedro reads at start."""

import os

# Before torch is loaded: its OpenMP threads must sleep while they wait for one another. By
# default they spin, and with anything else running on the machine most of the time goes into
# that: training took three times as long (docs/experiments.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before pyarrow is loaded: its own allocator takes pages of 2 MB for each of its threads, and
# keeps them. Reading a large repository took 100 MB more (docs/experiments.md).
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
# Loader processes fork after the tokenizer's threads exist; it warns at length otherwise.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from the_block_llm.hooks import ProjectHooks
from the_block_llm.project.config_loader import LOADER_ARGS, ProjectConfigLoader

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
