"""Nodes of the pipeline ``export``: thin calls."""

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
    """Merge the adapter and check it on the probes."""
    # Importing torch takes seconds that other commands need not spend.
    from the_block_llm.pipelines.export.exporting import export_adapter  # noqa: PLC0415

    probes = [planned["probe"] for planned in probe_plan["probes"]]
    return export_adapter(adapter, resolve_profile(models, model), probes, params)
