"""Every file of a table or report, damaged in every way: an error that names file and remedy."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from tests.builders.damage import FAULTS, damage_file

from the_block_llm import schemas
from the_block_llm.datasets.adapter import AdapterDataset
from the_block_llm.datasets.parquet_table import ParquetTable, save_table, table_exists
from the_block_llm.datasets.parquet_table_dataset import ParquetTableDataset
from the_block_llm.datasets.report import PageDataset, PlotDataset, ReportDataset
from the_block_llm.errors import BlockError, TableError

TEXTS = [f"line {n} of a text that is long enough for statistics" for n in range(3000)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    commits = [
        dict.fromkeys(schemas.COMMITS.names) | {"repo": f"r{n % 3}", "sha": text}
        for n, text in enumerate(TEXTS)
    ]
    schema = pa.schema([field.with_nullable(True) for field in schemas.COMMITS])
    batches = pa.Table.from_pylist(commits, schema).to_batches(1000)
    save_table(tmp_path / "table", schema, batches, part_bytes=1)
    return tmp_path / "table"


READERS: dict[str, Callable[[ParquetTable], object]] = {
    "batches": lambda table: list(table.batches()),
    "one column": lambda table: list(table.rows(["repo"])),
    "head": lambda table: table.head(table.num_rows),
    "containing": lambda table: list(table.batches_containing("repo", "r1", ["sha"])),
    "pandas": lambda table: table.to_pandas(),
    "verify": lambda table: table.verify(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("read", READERS)
def test_no_way_of_reading_a_table_overlooks_a_damaged_file(
    table: Path, read: str, fault: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{read} {fault}")
    names = sorted(path.name for path in table.iterdir())
    assert len(names) == 4
    for name in names:
        copy = Path(shutil.copytree(table, tmp_path / f"copy-{name}"))
        damage_file(copy / name, fault, rng)
        with pytest.raises(TableError, match=r"[Rr]un the pipeline that writes it"):
            READERS[read](ParquetTable(copy))
        assert not table_exists(copy)


def test_every_bit_of_the_statistics_is_covered(table: Path, tmp_path: Path) -> None:
    """A changed minimum in a footer would skip rows without a word."""
    [part, *_] = sorted(table.glob("*.parquet"))
    size = part.stat().st_size
    for position in range(size - 400, size, 7):
        copy = Path(shutil.copytree(table, tmp_path / str(position)))
        data = bytearray(part.read_bytes())
        data[position] ^= 1 << position % 8
        (copy / part.name).write_bytes(data)
        with pytest.raises(TableError, match="does not match its checksum"):
            list(ParquetTable(copy).batches_containing("repo", "r1", ["sha"]))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("suffix", [".json", ".html"])
def test_a_damaged_report_does_not_exist_and_names_the_remedy(
    tmp_path: Path, suffix: str, fault: str
) -> None:
    path = tmp_path / f"report{suffix}"
    kind = ReportDataset if suffix == ".json" else PageDataset
    dataset = kind(filepath=str(path))
    content = {"loss": 0.25, "rows": [1, 2]} if suffix == ".json" else "<html>0.25</html>\n"
    for attempt in range(20):
        dataset.save(content)
        assert dataset.load() == content
        assert dataset.exists()
        damage_file(path, fault, random.Random(attempt))
        assert not dataset.exists()
        with pytest.raises(Exception, match=r"Run the pipeline that writes it") as raised:
            dataset.load()
        assert isinstance(raised.value.__cause__, BlockError)


def test_a_table_of_an_earlier_version_is_absent_and_replaced(table: Path) -> None:
    (table / "_manifest.json").rename(table / "manifest.json")
    with pytest.raises(TableError, match="There is no table in"):
        ParquetTable(table)
    save_table(table, schemas.ROWS, [])
    assert [path.suffix for path in sorted(table.iterdir())] == [".json", ".parquet"]


def test_other_programs_read_the_folder_of_a_table(table: Path, tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow.dataset as ds
    from kedro_datasets.pandas import ParquetDataset

    expected = ParquetTable(table).table()["sha"].to_pylist()
    assert expected == TEXTS
    assert pd.read_parquet(table)["sha"].tolist() == TEXTS
    assert ds.dataset(table).to_table()["sha"].to_pylist() == TEXTS
    assert ParquetDataset(filepath=str(table)).load()["sha"].tolist() == TEXTS
    assert ParquetTableDataset(filepath=str(table), table="COMMITS").load().to_pandas().shape[0]
    save_table(tmp_path / "empty", schemas.ROWS, [])
    assert list(pd.read_parquet(tmp_path / "empty").columns) == schemas.ROWS.names


def test_a_part_is_read_for_its_checksum_once(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from the_block_llm.files import checksums

    known: dict[object, str] = {}  # as in another process
    monkeypatch.setattr(checksums, "_known", known)
    ParquetTable(table).verify()
    assert len(known) == 3
    read_again = dict.fromkeys(known, "not the checksum")
    monkeypatch.setattr(checksums, "_known", read_again)
    with pytest.raises(TableError, match="does not match its checksum"):
        list(ParquetTable(table).batches())


def test_a_plot_is_replaced_atomically_and_shown(tmp_path: Path) -> None:
    from matplotlib import pyplot

    dataset = PlotDataset(filepath=str(tmp_path / "plot.png"), dpi=30)
    assert not dataset.exists()
    dataset.save(pyplot.figure())
    first = (tmp_path / "plot.png").stat().st_ino
    dataset.save(pyplot.figure())
    assert (tmp_path / "plot.png").stat().st_ino != first
    assert dataset.preview().startswith("iVBORw0KGgo")  # "\x89PNG" in Base64
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_adapter_is_not_loaded_nor_replaced_by_an_older_one(
    tmp_path: Path, fault: str
) -> None:
    from tests.builders.advised_repository import write_adapter

    from the_block_llm.models.adapter.manifest import list_adapters, open_adapter

    profile = tmp_path / "06_models" / "tiny"
    write_adapter(tmp_path, "v1")
    newest = write_adapter(tmp_path, "v2")
    dataset = AdapterDataset(filepath=str(profile))
    assert dataset.load().path == newest
    rng = random.Random(fault)
    names = sorted(p.name for p in newest.iterdir() if p.name != "README.md")
    assert {"adapter_config.json", "adapter_model.safetensors", "manifest.json"} <= set(names)
    for name in names:
        shutil.copytree(newest, tmp_path / "kept", dirs_exist_ok=True)
        damage_file(newest / name, fault, rng)
        assert not dataset.exists()
        with pytest.raises(Exception, match=r"delete the folder: the version before"):
            dataset.load()
        assert list_adapters(profile)[0].path.name == "v1"
        shutil.rmtree(newest)
        (tmp_path / "kept").rename(newest)
    assert open_adapter(newest).path == newest


def test_an_adapter_of_an_earlier_version_is_read_without_checksums(tmp_path: Path) -> None:
    import json

    from tests.builders.advised_repository import write_adapter

    from the_block_llm.models.adapter.manifest import open_adapter

    adapter = write_adapter(tmp_path, "v1")
    values = json.loads((adapter / "manifest.json").read_text())
    del values["checksum"], values["files"]
    (adapter / "manifest.json").write_text(json.dumps(values))
    assert open_adapter(adapter).manifest.files == {}
