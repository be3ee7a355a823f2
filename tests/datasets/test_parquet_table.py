import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from tests.builders.processes import Script, running

from the_block_llm.datasets.parquet_table import (
    MANIFEST_NAME,
    ParquetTable,
    save_table,
    table_exists,
    write_part,
)
from the_block_llm.errors import StorageError, TableError, TableReplacedError

SCHEMA = pa.schema([pa.field("n", pa.int64()), pa.field("text", pa.string())])


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"n": n, "text": f"row {n}"} for n in numbers], SCHEMA)


def numbers(folder: Path) -> list[int]:
    return ParquetTable(folder).table(["n"])["n"].to_pylist()


def test_rows_are_read_in_order_across_parts(tmp_path: Path) -> None:
    table = save_table(
        tmp_path / "t", SCHEMA, (batch(i, i + 1) for i in range(0, 6, 2)), part_bytes=1
    )
    assert len(table.parts) == 3
    assert table.num_rows == 6
    assert numbers(tmp_path / "t") == [0, 1, 2, 3, 4, 5]
    assert [row["text"] for row in table.rows()] == [f"row {n}" for n in range(6)]
    assert table.head(3).to_pylist() == [{"n": n, "text": f"row {n}"} for n in range(3)]


def test_row_groups_without_the_value_are_skipped_and_counted(tmp_path: Path) -> None:
    schema = pa.schema([("ids", pa.list_(pa.struct([("x", pa.int32())]))), ("split", pa.string())])
    splits = [["a", "a"], ["b", "c"], ["a", "b"], ["c"]]
    batches = [
        pa.RecordBatch.from_pylist([{"ids": [{"x": 1}], "split": split} for split in part], schema)
        for part in splits
    ]
    table = save_table(tmp_path, schema, batches, part_bytes=1)
    assert len(table.parts) == 4
    for value, found in (
        ("a", [(0, ["a", "a"]), (4, ["a", "b"])]),
        ("b", [(2, ["b", "c"]), (4, ["a", "b"])]),
        ("c", [(2, ["b", "c"]), (6, ["c"])]),
        ("d", []),
    ):
        read = [
            (n, b["split"].to_pylist())
            for n, b in table.batches_containing("split", value, ["split"])
        ]
        assert read == found


def test_empty_table_can_be_saved_and_read(tmp_path: Path) -> None:
    table = save_table(tmp_path / "t", SCHEMA, [])
    assert table.num_rows == 0
    assert table.table().schema == SCHEMA


def test_failed_save_leaves_the_old_table(tmp_path: Path) -> None:
    save_table(tmp_path / "t", SCHEMA, [batch(1)])

    def interrupted() -> object:
        yield batch(2)
        yield batch(3)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        save_table(tmp_path / "t", SCHEMA, interrupted(), part_bytes=1)  # type: ignore[arg-type]
    assert numbers(tmp_path / "t") == [1]
    assert len(list((tmp_path / "t").glob("*.parquet"))) == 1


def test_unreferenced_parts_are_not_read_and_are_removed_by_the_next_save(
    tmp_path: Path,
) -> None:
    save_table(tmp_path / "t", SCHEMA, [batch(1)])
    write_part(tmp_path / "t" / "part-00009-killed.parquet", SCHEMA, [batch(9)])
    assert numbers(tmp_path / "t") == [1]
    save_table(tmp_path / "t", SCHEMA, [batch(2)])
    assert numbers(tmp_path / "t") == [2]
    assert len(list((tmp_path / "t").glob("*.parquet"))) == 1


def test_table_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    table = save_table(tmp_path / "t", SCHEMA, [batch(1), batch(2)])
    save_table(tmp_path / "t", SCHEMA, table.batches())
    assert numbers(tmp_path / "t") == [1, 2]


def test_existing_parts_are_hard_linked(tmp_path: Path) -> None:
    write_part(tmp_path / "cache" / "a.parquet", SCHEMA, [batch(1)])
    save_table(tmp_path / "t", SCHEMA, [tmp_path / "cache" / "a.parquet", batch(2)])
    table = ParquetTable(tmp_path / "t")
    assert numbers(tmp_path / "t") == [1, 2]
    assert table.parts[0].stat().st_ino == (tmp_path / "cache" / "a.parquet").stat().st_ino
    # A part that is already in the table is reused.
    save_table(tmp_path / "t", SCHEMA, [table.parts[1], table.parts[0]])
    assert numbers(tmp_path / "t") == [2, 1]


def test_rows_with_another_schema_are_rejected(tmp_path: Path) -> None:
    wrong_columns = pa.RecordBatch.from_pylist([{"m": 1}])
    with pytest.raises(TableError, match=r"columns \['m'\], expected \['n', 'text'\]"):
        save_table(tmp_path / "t", SCHEMA, [wrong_columns])
    wrong_type = pa.RecordBatch.from_pylist([{"n": "many", "text": "x"}])
    with pytest.raises(TableError, match="do not match its schema"):
        save_table(tmp_path / "t", SCHEMA, [wrong_type])
    assert not table_exists(tmp_path / "t")


def test_errors_of_missing_and_damaged_tables_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="Run the pipeline that writes it"):
        ParquetTable(tmp_path / "nowhere")
    table = save_table(tmp_path / "t", SCHEMA, [batch(1)])
    table.parts[0].unlink()
    with pytest.raises(TableError, match="lacks 1 of its 1 parts"):
        ParquetTable(tmp_path / "t")
    (tmp_path / "t" / MANIFEST_NAME).write_text("{")
    with pytest.raises(TableError, match="cannot be read"):
        ParquetTable(tmp_path / "t")


def test_manifest_lists_the_column_types(tmp_path: Path) -> None:
    save_table(tmp_path / "t", SCHEMA, [batch(1)])
    assert json.loads((tmp_path / "t" / MANIFEST_NAME).read_text())["columns"]["n"] == "int64"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_read_only_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="permission is denied"):
            save_table(tmp_path / "t", SCHEMA, [batch(1)])
    finally:
        tmp_path.chmod(0o700)


def test_file_in_place_of_the_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("in the way")
    with pytest.raises(StorageError, match="existing data is unchanged"):
        save_table(tmp_path / "t", SCHEMA, [batch(1)])
    assert (tmp_path / "t").read_text() == "in the way"


# Replaces a table again and again; all rows of a generation have its number.
REPLACE = """
    import sys
    from pathlib import Path
    import pyarrow as pa
    from the_block_llm.datasets.parquet_table import save_table
    schema = pa.schema([("n", pa.int64())])
    for n in range(1, 120):
        batches = (pa.RecordBatch.from_pydict({"n": [n] * 50}, schema) for _ in range(6))
        save_table(Path(sys.argv[1]), schema, batches, part_bytes=1)
        print("replaced", flush=True)
"""


def test_a_reader_gets_one_generation_or_a_clear_error(tmp_path: Path) -> None:
    writer = Script(REPLACE, tmp_path / "t")
    outcomes = {"read": 0, "replaced": 0}
    with running(writer):
        writer.wait_for("replaced")
        while writer.is_running:
            table = ParquetTable(tmp_path / "t")
            try:
                rows = table.table()["n"].to_pylist()
            except TableReplacedError:
                outcomes["replaced"] += 1
                continue
            assert len(rows) == 300
            assert len(set(rows)) == 1
            outcomes["read"] += 1
        writer.finish()
    assert outcomes["read"]


def test_a_part_that_a_run_has_removed_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    table = save_table(tmp_path / "t", SCHEMA, [batch(1)])
    save_table(tmp_path / "t", SCHEMA, [batch(2)])
    with pytest.raises(TableReplacedError, match=f"{tmp_path / 't'} was replaced by a run"):
        list(table.rows())
    assert numbers(tmp_path / "t") == [2]
