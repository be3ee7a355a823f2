"""Nodes of the pipeline ``export``."""

from collections.abc import Mapping
from typing import Any

from the_block_llm.models.adapter.manifest import AdapterFolder
from the_block_llm.models.profiles import ModelProfiles, resolve_profile
from the_block_llm.pipelines.export.params import ExportParams


def export_model(
    adapter: AdapterFolder,
    probe_plan: Mapping[str, Any],
    models: ModelProfiles,
    model: str,
    params: ExportParams,
) -> dict[str, Any]:
    """Merge the adapter into its base model and verify the result on the probes."""
    # Imported here, since torch takes seconds to import and other commands do not use it.
    from the_block_llm.pipelines.export.exporting import export_adapter  # noqa: PLC0415

    probes = [planned["probe"] for planned in probe_plan["probes"]]
    return export_adapter(adapter, resolve_profile(models, model), probes, params)
