"""Project settings that Kedro reads at startup."""

import os

# Before torch is imported: OpenMP threads must sleep while they wait for each other. By default
# they spin, which with other load on the machine made training three times as slow
# (docs/experiments.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before pyarrow is imported: its default allocator keeps pages of 2 MB for each thread. Reading a
# large repository took 100 MB more with it (docs/experiments.md).
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
# Data loader processes fork after the tokenizer has started threads; this avoids its warning.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from the_block_llm.hooks import ProjectHooks
from the_block_llm.project.config_loader import LOADER_ARGS, ProjectConfigLoader

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = LOADER_ARGS
