"""Tables in an S3-compatible store: same content as local ones, atomic saves, clear errors."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from tests.builders.project import run_project

from the_block_llm.datasets.object_store import StorePath, check_writable, resolve_location
from the_block_llm.datasets.parquet_table import ParquetTable, save_table, table_exists, write_part
from the_block_llm.datasets.report import ReportDataset
from the_block_llm.datasets.repository_rows import RepositoryRowIndex
from the_block_llm.datasets.storage import storage_location
from the_block_llm.errors import ParameterError, StorageError, TableError, TableReplacedError
from the_block_llm.project.config_loader import config_loader

SCHEMA = pa.schema([pa.field("repo", pa.string()), pa.field("n", pa.int64())])


def batch(*numbers: int, repo: str = "a") -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"repo": repo, "n": n} for n in numbers], SCHEMA)


@pytest.fixture
def folder(credentials: dict[str, Any]) -> StorePath:
    found = resolve_location("s3://tables/company/t", credentials)
    assert isinstance(found, StorePath)
    return found


def numbers(table: ParquetTable) -> list[int]:
    return table.table(["n"])["n"].to_pylist()


def test_table_in_a_store_matches_a_local_table_byte_for_byte(
    folder: StorePath, tmp_path: Path
) -> None:
    save_table(folder, SCHEMA, (batch(i, i + 1) for i in range(0, 6, 2)), part_bytes=1)
    stored = ParquetTable(folder)
    local = save_table(
        tmp_path / "t", SCHEMA, (batch(i, i + 1) for i in range(0, 6, 2)), part_bytes=1
    )
    assert numbers(stored) == [0, 1, 2, 3, 4, 5]
    assert [p.read_bytes() for p in stored.parts] == [p.read_bytes() for p in local.parts]
    assert stored.num_bytes == local.num_bytes
    assert stored.head(2).to_pylist() == [{"repo": "a", "n": 0}, {"repo": "a", "n": 1}]
    assert table_exists(folder)
    assert not table_exists(folder / "nowhere")


def test_rows_of_one_repository_are_found(folder: StorePath) -> None:
    rows = [batch(1, 2, repo="a"), batch(3, repo="b"), batch(4, repo="a")]
    table = save_table(folder, SCHEMA, rows, part_bytes=1)
    # Pickled, as for a job in another process.
    of_a = pickle.loads(pickle.dumps(RepositoryRowIndex(table).rows_of("a")))
    assert [row["n"] for row in of_a.rows(["n"])] == [1, 2, 4]


def test_failed_save_leaves_the_old_table(folder: StorePath) -> None:
    save_table(folder, SCHEMA, [batch(1)])

    def interrupted() -> Any:
        yield batch(2)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        save_table(folder, SCHEMA, interrupted(), part_bytes=1)
    assert numbers(ParquetTable(folder)) == [1]
    assert len(folder.sizes()) == 2, "one part and the manifest"


_KILLED_SCRIPT = """
import os, pickle, signal, sys
from the_block_llm.datasets.parquet_table import save_table

folder, schema, batches = pickle.load(sys.stdin.buffer)

def killed():
    yield from batches
    os.kill(os.getpid(), signal.SIGKILL)

save_table(folder, schema, killed(), part_bytes=1)
"""


@pytest.mark.slow
def test_killed_save_leaves_the_old_table_and_the_next_save_reuses_its_parts(
    folder: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_table(folder, SCHEMA, [batch(1)])
    process = subprocess.run(
        [sys.executable, "-c", _KILLED_SCRIPT],
        input=pickle.dumps((folder, SCHEMA, [batch(2), batch(3)])),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert numbers(ParquetTable(folder)) == [1]
    assert len(folder.sizes()) == 4, "two unreferenced parts"

    uploaded: list[str] = []
    put_bytes = StorePath.put_bytes

    def recorded(self: StorePath, data: bytes) -> None:
        uploaded.append(self.name)
        put_bytes(self, data)

    monkeypatch.setattr(StorePath, "put_bytes", recorded)
    table = save_table(folder, SCHEMA, [batch(2), batch(4)], part_bytes=1)
    assert numbers(table) == [2, 4]
    assert len(uploaded) == 2, "one part and the manifest; the other part existed"
    assert set(folder.sizes()) == {"_manifest.json", *(part.name for part in table.parts)}


_KILLED_DURING_UPLOAD_SCRIPT = """
import asyncio, os, pickle, signal, sys
import s3fs
from the_block_llm.datasets.parquet_table import save_table

folder, schema, part = pickle.load(sys.stdin.buffer)
# Objects above twice this size are uploaded in chunks; the default is 50 MB.
s3fs.core.calculate_chunksize = lambda *_, **__: 5 * 2**20
send = s3fs.S3FileSystem._call_s3

async def killed(self, method, *values, **options):
    if method == "upload_part" and options["PartNumber"] == 3:
        sending = asyncio.ensure_future(send(self, method, *values, **options))
        # The first two chunks have arrived, and this one is being sent.
        while len((await send(self, "list_parts", **{
            name: options[name] for name in ("Bucket", "Key", "UploadId")
        })).get("Parts", ())) < 2:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return await send(self, method, *values, **options)

s3fs.S3FileSystem._call_s3 = killed
save_table(folder, schema, [part])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_save_killed_during_a_multipart_upload_leaves_the_old_table(
    folder: StorePath, tmp_path: Path, credentials: dict[str, Any]
) -> None:
    import boto3

    save_table(folder, SCHEMA, [batch(1)])
    before = folder.sizes()
    # Random numbers, which do not compress: 16 MB, in four chunks.
    values = np.random.default_rng(0).integers(2**62, size=2_000_000)
    part = tmp_path / "large.parquet"
    columns = {"repo": pa.array(["a"] * len(values)), "n": pa.array(values)}
    write_part(part, SCHEMA, pa.table(columns, SCHEMA).to_batches(50_000))
    assert part.stat().st_size > 15 * 2**20
    process = subprocess.run(
        [sys.executable, "-c", _KILLED_DURING_UPLOAD_SCRIPT],
        input=pickle.dumps((folder, SCHEMA, part)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    client = boto3.client(
        "s3", aws_access_key_id="testing", aws_secret_access_key="testing",
        **credentials["client_kwargs"],
    )  # fmt: skip
    [upload] = client.list_multipart_uploads(Bucket="tables")["Uploads"]
    assert upload["Key"].startswith("company/t/part-"), "the store retains the incomplete upload"
    assert folder.sizes() == before, "an incomplete upload is not visible"
    assert numbers(ParquetTable(folder)) == [1]

    table = save_table(folder, SCHEMA, [part])
    assert table.num_rows == len(values)
    assert [p.read_bytes() for p in table.parts] == [part.read_bytes()]
    client.abort_multipart_upload(
        Bucket="tables", Key=upload["Key"], UploadId=upload["UploadId"]
    )  # as a lifecycle rule of the bucket would do


def test_existing_parts_are_added_from_a_folder_or_a_store(
    folder: StorePath, tmp_path: Path
) -> None:
    write_part(tmp_path / "a.parquet", SCHEMA, [batch(1)])
    other = save_table(folder.parent / "other", SCHEMA, [batch(2)])
    items = [tmp_path / "a.parquet", *other.parts, batch(3)]
    assert numbers(save_table(folder, SCHEMA, items)) == [1, 2, 3]
    # And from a store to a folder, as for parts that a cluster has written.
    assert numbers(save_table(tmp_path / "t", SCHEMA, [*other.parts, batch(3)])) == [2, 3]
    table = ParquetTable(folder)
    assert numbers(save_table(folder, SCHEMA, [table.parts[1], table.parts[0]])) == [2, 1]
    with pytest.raises(TableError, match="schema of the part .* differs"):
        save_table(folder, pa.schema([pa.field("m", pa.int64())]), [tmp_path / "a.parquet"])
    assert numbers(ParquetTable(folder)) == [2, 1]


def test_local_copy_downloads_only_new_parts(
    folder: StorePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    save_table(folder, SCHEMA, [batch(1), batch(2)], part_bytes=1).ensure_local(copy)
    assert numbers(ParquetTable(copy)) == [1, 2]
    table = save_table(folder, SCHEMA, [batch(2), batch(3)], part_bytes=1)
    downloaded: list[str] = []
    get_file = StorePath.get_file

    def recorded(self: StorePath, target: Path) -> None:
        downloaded.append(self.name)
        get_file(self, target)

    monkeypatch.setattr(StorePath, "get_file", recorded)
    assert table.ensure_local(copy) == copy
    assert downloaded == [table.parts[1].name], "the other part existed"
    assert numbers(ParquetTable(copy)) == [2, 3]
    assert len(list(copy.iterdir())) == 3, "parts that the table no longer references are removed"
    local = save_table(tmp_path / "t", SCHEMA, [batch(1)])
    assert local.ensure_local(tmp_path / "unused") == tmp_path / "t"
    assert not (tmp_path / "unused").exists()


def test_report_dataset_in_a_store(credentials: dict[str, Any]) -> None:
    report = ReportDataset(filepath="s3://tables/r/report.json", credentials=credentials)
    assert not report.exists()
    with pytest.raises(Exception, match="There is no s3://tables/r/report.json yet"):
        report.load()
    report.save({"commits": 3})
    assert report.exists()
    assert report.load() == {"commits": 3}


def test_missing_bucket_is_an_error_with_a_remedy(credentials: dict[str, Any]) -> None:
    location = resolve_location("s3://no-such-bucket/t", credentials)
    assert isinstance(location, StorePath)
    for access in (check_writable, ParquetTable, lambda path: save_table(path, SCHEMA, [])):
        with pytest.raises(StorageError, match="Create the bucket, or correct storage.folder"):
            access(location)


def test_wrong_credentials_are_an_error_with_a_remedy(s3_server: str, folder: StorePath) -> None:
    def require_credentials(after_requests: str) -> None:
        url = f"{s3_server}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, after_requests.encode(), headers, method="POST")
        urllib.request.urlopen(request).close()

    require_credentials("0")
    try:
        for access in (check_writable, ParquetTable, lambda path: save_table(path, SCHEMA, [])):
            with pytest.raises(StorageError, match="Check key and secret in conf/local"):
                access(folder)
    finally:
        require_credentials("inf")
    assert "testing" not in repr(folder), "repr contains no secret"


def test_unreachable_store_is_an_error_with_a_remedy(credentials: dict[str, Any]) -> None:
    options = {
        **credentials,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
        "retries": 1,
    }
    unreachable = resolve_location("s3://tables/t", options)
    assert isinstance(unreachable, StorePath)
    with pytest.raises(StorageError, match="Check the network and the store's URL"):
        check_writable(unreachable)


def test_missing_s3_extra_is_an_error_with_a_remedy(
    folder: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(StorageError, match=r"pip install 'the_block_llm\[s3\]'"):
        check_writable(folder)


def test_unknown_protocol_is_an_error_with_a_remedy() -> None:
    location = resolve_location("s4://tables/t")
    assert isinstance(location, StorePath)
    with pytest.raises(StorageError, match="a URL like s3://bucket/prefix"):
        check_writable(location)


@pytest.fixture
def project(finished_project: Path, credentials: dict[str, Any], tmp_path: Path) -> Path:
    """A project with the results of a local run, and the credentials of a store."""
    folder = tmp_path / "project"
    shutil.copytree(finished_project, folder)
    text = yaml.safe_dump({"company_store": credentials})
    (folder / "conf/test/credentials.yml").write_text(text, encoding="utf-8")
    return folder


STORED = {"folder": "s3://tables/the-block", "credentials": "company_store"}


@pytest.mark.slow
def test_run_with_tables_in_a_store_matches_a_local_run(
    project: Path,
    small_repository: Path,
    credentials: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    local = project / "data"
    bootstrap_project(project)
    # In the copied project the relative path of the repository is not valid.
    parameters = {"storage": STORED, "repository": str(small_repository)}
    with KedroSession.create(project, env="test", runtime_params=parameters) as session:
        session.run(pipeline_names=["git_ingest", "sequence_build"])
    for name in (
        "02_intermediate/commits", "02_intermediate/file_changes",
        "02_intermediate/snapshot_files", "04_feature/documents/tiny",
        "05_model_input/train/tiny", "05_model_input/validation/tiny",
        "05_model_input/held_out/tiny",
    ):  # fmt: skip
        stored = ParquetTable(resolve_location(f"{STORED['folder']}/{name}", credentials))
        expected = ParquetTable(local / name)
        assert expected.num_rows > 0
        assert [p.read_bytes() for p in stored.parts] == [p.read_bytes() for p in expected.parts], (
            name
        )
    for name in ("08_reporting/sequence_report.json", "05_model_input/row_facts/tiny.json"):
        report = resolve_location(f"{STORED['folder']}/{name}", credentials)
        assert report.read_text(encoding="utf-8") == (local / name).read_text(encoding="utf-8")
    plots = resolve_location(f"{STORED['folder']}/08_reporting", credentials)
    assert isinstance(plots, StorePath)
    assert plots.sizes()["ingest_history.png"] > 10_000


def test_missing_bucket_is_reported_before_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(StorageError, match=r"s3://nowhere/x.*Create the bucket"):
        run_project(project, "git_ingest", storage={**STORED, "folder": "s3://nowhere/x"})


def test_missing_credentials_entry_names_the_known_ones(project: Path) -> None:
    bootstrap_project(project)
    storage = {**STORED, "credentials": "compnay"}
    session = KedroSession.create(project, env="test", runtime_params={"storage": storage})
    with (
        session,
        pytest.raises(ParameterError, match=r"'compnay'.*no such entry \(it has: company_store\)"),
    ):
        session.run(pipeline_names=["git_ingest"])
    (project / "conf/test/credentials.yml").unlink()
    with pytest.raises(ParameterError, match=r"it has: none"):
        storage_location(config_loader(project, "test", {"storage": storage}))


def test_a_part_that_a_run_has_removed_is_an_error_with_the_remedy(folder: StorePath) -> None:
    table = save_table(folder, SCHEMA, [batch(1)])
    save_table(folder, SCHEMA, [batch(2)])
    with pytest.raises(TableReplacedError, match="s3://tables/company/t was replaced by a run"):
        list(table.rows())
    assert numbers(ParquetTable(folder)) == [2]


def test_only_the_first_of_two_uploads_makes_a_new_object(folder: StorePath) -> None:
    assert (folder / "new").put_new_bytes(b"first")
    assert not (folder / "new").put_new_bytes(b"second")
    assert (folder / "new").read_bytes() == b"first"
