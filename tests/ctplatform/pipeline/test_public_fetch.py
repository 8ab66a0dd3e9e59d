"""What a dry run says of a cohort in public buckets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ctplatform.cli.main import main
from ctplatform.pipeline.costs import Work
from ctplatform.pipeline.public_fetch import Terms, fetch_lines


def cohort(*paths: str, size: float | None = 100e9) -> pd.DataFrame:
    table = pd.DataFrame({"path": list(paths)})
    return table if size is None else table.assign(bytes=size)


def test_no_lines_for_scans_at_hand() -> None:
    assert fetch_lines(cohort("/data/a", "s3://private/b"), [Work("prepare", 2, "scans")], Terms()) == []
    assert fetch_lines(cohort(), [], Terms()) == []


def test_bytes_nodes_and_price() -> None:
    works = [
        Work("atlas", 1, "scans", 2.0),
        Work("prepare", 3, "scans", 100.0),
        Work("pretrain", 9, "anchors", 0.0, 40.0),
    ]
    table = cohort("s3://idc-open-data/a", "gs://idc-open-cr/b", "s3://anonymous@elsewhere/c", "/data/d")
    terms = Terms(0.5, 2.0, 0.1, node_cores=4, node_gpus=2, night_h=10)
    fetch, nodes, price = fetch_lines(table, works, terms)
    assert fetch.startswith("fetch  0.300 TB of 3 series")
    assert fetch.endswith("0.200 TB")
    assert (
        "of 4 cores and 2 GPUs that end each stage within 10 hours: atlas 1, prepare 3, pretrain 2" in nodes
    )
    assert nodes.endswith("0.07 Gbit/s")  # 300 GB in 36,000 s
    # 102 core-hours, 40 GPU-hours, 100 GB out of the bucket that is not free
    assert price.startswith("price  141.00: ")


def test_half_of_it_is_prepared_already() -> None:
    table = cohort("s3://idc-open-data/a", "s3://idc-open-data/b")
    assert "0.100 TB of 1 series" in fetch_lines(table, [Work("prepare", 1, "scans", 1.0)], Terms())[0]


def test_what_is_not_known_is_said() -> None:
    works = [
        Work("prepare", 1, "scans", 1.0),
        Work("pretrain", 9, "anchors", 0.0, None),
        Work("embed", 1, "", 0.0, 3.0),
    ]
    table = cohort("s3://idc-open-data/a", size=None)
    lines = fetch_lines(table, works, Terms(core_price=1.0))
    assert "no column bytes" in lines[0]
    assert "pretrain unknown without --gpu-rate, embed unknown without --node-gpus" in lines[1]
    assert lines[3].strip() == "without the GPU-hours of pretrain, which need --gpu-rate"
    assert fetch_lines(table, works, Terms())[2].startswith("price  give --core-price")


def test_the_dry_run_prints_it(tmp_path: Path, capsys) -> None:
    uuid = "7271ab1d-bb03-4ca9-9457-dabcafd4d33f"
    (tmp_path / "cohort.csv").write_text(f"scan_id,path,bytes\na,s3://idc-open-data/{uuid},70000000000\n")
    main(
        ["run", "--dry-run", "--cohort", str(tmp_path / "cohort.csv"), "--workspace", str(tmp_path / "ws")]
        + ["--core-price", "0.04", "--node-cores", "64"]
    )
    said = capsys.readouterr().out
    assert "0.140 TB of 2 series for atlas and prepare" in said, "both read the only scan"
    assert "of 64 cores" in said
    assert "at 0.04, " in said
