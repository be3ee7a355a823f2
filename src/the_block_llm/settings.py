"""Project settings that Kedro reads at start."""

from the_block_llm.hooks import ProjectHooks

HOOKS = (ProjectHooks(),)

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # conf/local replaces single values, not whole top-level keys.
    "merge_strategy": {"parameters": "soft"},
}
