import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from the_block_llm.errors import AdapterError
from the_block_llm.models.adapter.manifest import AdapterManifest, write_manifest
from the_block_llm.pipelines.qlora_train.registry.adapter_commands import adapters_group
from the_block_llm.pipelines.qlora_train.registry.adapter_versions import (
    compare_versions,
    list_adapter_versions,
    versions_to_prune,
)


def save_version(
    folder: Path, profile: str, version: str, loss: float, data: str = "a", lr: float = 2e-4
) -> Path:
    path = folder / profile / version
    path.mkdir(parents=True)
    manifest = AdapterManifest(
        profile=profile, base_model="base", base_revision="1", data_hashes={"train": data},
        parameters={"values": {"learning_rate": lr}}, git_commit="c0ffee" * 6,
        library_versions={}, device="CPU", peak_memory_gib=1.0,
        metrics={
            "steps_done": 8, "validation_loss_before": 3.0, "validation_loss_after": loss,
        },
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    (path / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    write_manifest(path, manifest)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    save_version(tmp_path, "advisor", "v1", 2.0, data="other rows")
    save_version(tmp_path, "advisor", "v2", 2.4)
    save_version(tmp_path, "advisor", "v3", 2.7, lr=1e-4)
    save_version(tmp_path, "advisor", "v4", 2.6)
    save_version(tmp_path, "completion", "v1", 1.5)
    (tmp_path / "advisor/.unfinished").mkdir()
    (tmp_path / "base").mkdir()
    return tmp_path


def run(models: Path, *arguments: str, answer: str | None = None, model: str = "advisor") -> Result:
    parameters = {"model": model, "qlora_train": {"work_folder": str(models)}}
    group = adapters_group(
        lambda project: lambda env: parameters,
        lambda project, parameters: nullcontext(),
        lambda work: work(),
    )
    return CliRunner().invoke(group, list(arguments), obj=object(), input=answer)


def test_best_version_has_the_lowest_loss_on_the_rows_of_the_latest(models: Path) -> None:
    flags = {
        (v.profile, v.version): (v.is_best, v.is_latest) for v in list_adapter_versions(models)
    }
    assert flags == {
        ("advisor", "v1"): (False, False),  # an even lower loss, but on other rows
        ("advisor", "v2"): (True, False),
        ("advisor", "v3"): (False, False),
        ("advisor", "v4"): (False, True),
        ("completion", "v1"): (True, True),
    }


@pytest.mark.parametrize(("keep", "pruned"), [(1, ["v1", "v3"]), (2, ["v1"]), (9, [])])
def test_pruning_keeps_the_newest_and_the_best(models: Path, keep: int, pruned: list[str]) -> None:
    assert [v.version for v in versions_to_prune(list_adapter_versions(models), keep)] == pruned


def test_compare_lists_only_differing_fields(models: Path) -> None:
    assert compare_versions(models, "advisor/v2", "v3") == [
        ("metrics.validation_loss_after", "2.4", "2.7"),
        ("parameters.values.learning_rate", "0.0002", "0.0001"),
    ]


@pytest.mark.parametrize(
    ("version", "message"),
    [("v9", "no adapter 'v9'.*advisor/v1"), ("v1", "2 adapters; specify one of: advisor/v1")],
)
def test_unknown_or_ambiguous_version_is_an_error(models: Path, version: str, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        compare_versions(models, version, "v2")


def test_list_shows_the_selected_profile_or_all(models: Path) -> None:
    shown = run(models, "list").output
    assert re.search(r"v2 .*3\.000 → 2\.400 .*c0ffeec0 .*best", shown)
    assert "completion" not in shown
    assert "completion" in run(models, "list", "--all").output
    assert "no adapter yet" in run(models, "list", model="other").output


def test_prune_deletes_only_after_confirmation(models: Path) -> None:
    before = {path.name for path in (models / "advisor").iterdir()}
    assert "Delete 2 adapters" in run(models, "prune", answer="n\n").output
    assert {path.name for path in (models / "advisor").iterdir()} == before
    assert "Deleted 2 adapters" in run(models, "prune", "--yes").output
    assert {path.name for path in (models / "advisor").iterdir()} == before - {"v1", "v3"}
    assert "nothing to delete" in run(models, "prune", "--yes").output


def test_damaged_version_is_named_and_left_out(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (models / "advisor/v4/manifest.json").write_text(json.dumps({"format": 1}))
    assert [v.version for v in list_adapter_versions(models, "advisor") if v.is_latest] == ["v3"]
    assert "advisor/v4 cannot be read" in caplog.text
