"""Raw files read as their contract says; where they differ, one message says how."""

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config import day_start as python_day_start
from jobs.delta import write_arrow_day
from jobs.errors import ConfigError
from jobs.feeds import Column, EventsFeed
from jobs.spark.raw import column, day_start, local_day, read_feed, time_column
from tests.jobs.samples import COMMIT
from tests.jobs.spark.frames import by, frame, utc
from tests.jobs.spark.frames import column as values

DAYS = [date(2024, 3, 1), date(2024, 3, 2)]


def feed(path, kind="parquet", **columns):
    return EventsFeed(
        kind="events",
        path=path,
        format=kind,
        columns=columns,
        id=["id"],
        user_id=Column(column="id"),
        item_id=Column(column="id"),
        surface=Column(column="id"),
        event_type=Column(column="id"),
        event_ts=Column(column="id"),
    )


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def read(spark, log, of, days=DAYS):
    found = read_feed(spark, "acts", of, str(log), days)
    assert found is not None
    return found.rows


@pytest.mark.parametrize(
    ("raw", "unit", "moment"),
    [
        ("1709290800", "s", utc(1, 11)),
        ("1709290800.000001", "s", utc(1, 11, 0, 0, 1)),
        ("'1709290800.5'", "s", utc(1, 11, 0, 0, 500_000)),
        ("cast(1709290800.123456 as double)", "s", utc(1, 11, 0, 0, 123_456)),
        ("1709290800001", "ms", utc(1, 11, 0, 0, 1_000)),
        ("1709290800000001", "us", utc(1, 11, 0, 0, 1)),
        ("timestamp'2024-03-01 11:00:00'", "timestamp", utc(1, 11)),
        ("'2024-03-01T11:00:00.25Z'", "text", utc(1, 11, 0, 0, 250_000)),
        ("'2024-03-01T12:00:00+01:00'", "text", utc(1, 11)),
        ("'2024-03-01 11:00:00'", "timestamp", utc(1, 11)),
        *[("null", unit, None) for unit in ("s", "ms", "us", "timestamp", "text")],
        *[("'soon'", unit, None) for unit in ("s", "ms", "us", "timestamp", "text")],
        # Beyond what a long or a calendar holds.
        ("9223372036854775807", "s", None),
        ("9223372036854775807", "ms", None),
        ("9223372036854775807", "us", None),
        ("-9223372036854775808", "ms", None),
        ("cast('1e300' as double)", "s", None),
    ],
)
def test_a_time_is_read_in_its_unit_or_is_null(spark, raw, unit, moment):
    read_as = time_column(Column(expr=raw, unit=unit))
    found = spark.range(1).select(read_as.alias("at"), local_day(read_as, "Asia/Tokyo"))
    assert values(found, "at") == [moment]


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", date(2024, 3, 31)),
        ("Europe/Berlin", date(2024, 10, 27)),
        ("America/Sao_Paulo", date(2018, 11, 4)),
        ("America/Havana", date(2024, 11, 3)),
        ("Asia/Kathmandu", date(2024, 3, 1)),
    ],
)
def test_a_day_starts_in_spark_when_it_does_in_python(spark, zone, day):
    days = [(day + timedelta(days=n),) for n in range(3)]
    starts = frame(spark, "day date", *days).withColumn(
        "at", day_start(column(Column(column="day")), zone)
    )
    assert values(starts, "at", "day") == [python_day_start(d, zone) for (d,) in days]
    edges = [
        (start + timedelta(microseconds=n), start)
        for start in values(starts, "at", "day")
        for n in (-1, 0)
    ]
    found = frame(spark, "at timestamp, start timestamp", *edges)
    found = found.withColumn("day", local_day(column(Column(column="at")), zone))
    assert values(found, "day", "at") == [d + timedelta(days=n) for (d,) in days for n in (-1, 0)]


def test_one_file_has_no_day_of_its_own(spark, tmp_path):
    parquet(tmp_path / "acts.parquet", id=["a"])
    found = read(spark, tmp_path, feed("acts.parquet"))
    assert by(found, "id", "_folder_day", "_bad_column") == {"a": (None, None)}
    (file,) = values(found, "_source_file")
    assert file.endswith("/acts.parquet")


@pytest.mark.parametrize(
    ("log", "path", "file"),
    [
        ("log", "acts/day={day}", "part-2020-01-01.parquet"),
        ("2019-12-31 a+b é%", "{day}/acts.parquet", None),
        ("log", "x-{day}/acts-{day}.parquet", None),
        ("log/2019-12-31", "acts/{day}", "hour=03/p.parquet"),
    ],
)
def test_the_day_of_a_folder_is_read_from_its_place_in_the_path(spark, tmp_path, log, path, file):
    for number, day in enumerate(DAYS):
        place = tmp_path / log / path.replace("{day}", str(day))
        parquet(place / file if file else place, id=[number])
    found = read(spark, tmp_path / log, feed(path))
    assert by(found, "id", "_folder_day") == {0: DAYS[0], 1: DAYS[1]}
    assert "hour" not in found.columns


def test_only_the_days_asked_for_are_read(spark, tmp_path):
    for number, day in enumerate(DAYS):
        parquet(tmp_path / str(day) / "x.parquet", id=[number])
    assert values(read(spark, tmp_path, feed("{day}"), DAYS[1:]), "id") == [1]


def test_a_missing_file_is_told_and_a_missing_day_is_not(spark, tmp_path):
    with pytest.raises(ConfigError, match=r"feeds.acts.path: no file .*acts.parquet; put the log"):
        read_feed(spark, "acts", feed("acts.parquet"), str(tmp_path), DAYS)
    assert read_feed(spark, "acts", feed("{day}/x.parquet"), str(tmp_path), DAYS) is None


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_an_empty_file_or_folder_holds_no_rows(spark, tmp_path, kind):
    text(tmp_path / str(DAYS[0]) / f"x.{kind}", "")
    text(tmp_path / str(DAYS[1]) / "_SUCCESS", "")
    assert read_feed(spark, "acts", feed("{day}", kind), str(tmp_path), DAYS) is None


def test_a_file_of_no_rows_is_read_beside_one_with_rows(spark, tmp_path):
    parquet(tmp_path / str(DAYS[0]) / "x.parquet", id=pa.array([], pa.int64()))
    parquet(tmp_path / str(DAYS[1]) / "x.parquet", id=[1])
    text(tmp_path / "csv" / str(DAYS[0]), "id\n")
    text(tmp_path / "csv" / str(DAYS[1]), "id\n1\n")
    assert values(read(spark, tmp_path, feed("{day}")), "id") == [1]
    assert values(read(spark, tmp_path, feed("csv/{day}", "csv", id="int")), "id") == [1]


def test_text_is_cast_as_declared_and_a_value_that_does_not_fit_is_kept_as_text(spark, tmp_path):
    text(tmp_path / "a.csv", "id,price,many\n1,2.5,x\n2,cheap,y\n3,,\nfour,4,z\n")
    found = read(spark, tmp_path, feed("a.csv", "csv", id="int", price="double"))
    rows = found.select("id", "price", "many", "_bad_column", "_bad_row").toArrow().to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, 2.5, "x", None, None),
        (2, None, "y", "price", '{"id":"2","price":"cheap","many":"y"}'),
        (3, None, None, None, None),
        (None, 4.0, "z", "id", '{"id":"four","price":"4","many":"z"}'),
    ]


def test_json_rows_may_name_their_columns_as_they_like(spark, tmp_path):
    text(tmp_path / "a.json", '{"id":1,"many":[1,2]}\n{"many":["x"],"id":2}\n{"id":3,"new":0}\n')
    found = read(spark, tmp_path, feed("a.json", "jsonl", id="int", many="array<int>"))
    assert by(found, "id", "many", "_bad_column") == {
        1: ([1, 2], None),
        2: ([None], "many"),
        3: (None, None),
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_days_with_other_columns_are_laid_together_by_name(spark, tmp_path, kind):
    content = {DAYS[0]: {"id": [1], "v": [10]}, DAYS[1]: {"new": [5], "v": [20], "id": [2]}}
    for day, columns in content.items():
        if kind == "csv":
            header, row = ",".join(columns), ",".join(str(v[0]) for v in columns.values())
            text(tmp_path / f"{day}", f"{header}\n{row}\n")
        else:
            parquet(tmp_path / f"{day}", **columns)
    found = read(spark, tmp_path, feed("{day}", kind, id="bigint", v="bigint"))
    assert by(found.selectExpr("id", "v", "cast(new as int) as new"), "id", "v", "new") == {
        1: (10, None),
        2: (20, 5),
    }


def test_an_integer_may_grow_between_days(spark, tmp_path):
    parquet(tmp_path / f"{DAYS[0]}", id=pa.array([1], pa.int32()))
    parquet(tmp_path / f"{DAYS[1]}", id=pa.array([2**40], pa.int64()))
    assert values(read(spark, tmp_path, feed("{day}", id="int")), "id", "id") == [1, 2**40]


def test_a_folder_whose_csv_headers_differ_is_not_misread(spark, tmp_path):
    text(tmp_path / f"{DAYS[0]}" / "a.csv", "id,v\n1,2\n")
    text(tmp_path / f"{DAYS[0]}" / "b.csv", "v,id\n2,1\n")
    with pytest.raises(Exception, match="header"):
        read(spark, tmp_path, feed("{day}", "csv")).collect()


@pytest.mark.parametrize(
    ("columns", "declared", "message"),
    [
        (
            {"id": ["a"]},
            {"id": "bigint"},
            "column 'id' is string in the file, bigint in the contract",
        ),
        (
            {"idd": [1], "x": [1]},
            {"id": "bigint"},
            "column 'id' is missing (the nearest is 'idd')",
        ),
        ({"x": [1]}, {"user": "int"}, "column 'user' is missing (it has ['x'])"),
        (
            {"at": [1.5], "seq": [["a"]]},
            {"at": "bigint", "seq": "array<bigint>"},
            "column 'at' is double in the file, bigint in the contract; column 'seq' is "
            "array<string> in the file, array<bigint> in the contract",
        ),
    ],
)
def test_a_file_that_differs_from_the_contract_is_told_with_a_diff(
    spark, tmp_path, columns, declared, message
):
    parquet(tmp_path / f"{DAYS[0]}", **columns)
    with pytest.raises(ConfigError) as error:
        read_feed(spark, "acts", feed("{day}", **declared), str(tmp_path), DAYS)
    assert str(error.value) == (
        f"feeds.acts.columns: {tmp_path}/{DAYS[0]}: {message}; mend the contract or the log"
    )


def test_the_day_that_changed_its_type_is_named(spark, tmp_path):
    parquet(tmp_path / f"{DAYS[0]}", id=[1])
    parquet(tmp_path / f"{DAYS[1]}", id=["1"])
    with pytest.raises(ConfigError, match=r"/2024-03-02: column 'id' is string in the file, int"):
        read_feed(spark, "acts", feed("{day}", id="int"), str(tmp_path), DAYS)


@pytest.mark.parametrize(
    ("found", "declared"),
    [
        (pa.int8(), "int"),
        (pa.int64(), "int"),
        (pa.int32(), "double"),
        (pa.float32(), "double"),
        (pa.list_(pa.int32()), "array<bigint>"),
    ],
)
def test_a_number_may_be_narrower_or_wider_than_declared(spark, tmp_path, found, declared):
    parquet(tmp_path / "a", id=pa.array([None], found))
    assert read(spark, tmp_path, feed("a", id=declared)).count() == 1


def test_a_delta_table_is_read_whole(spark, tmp_path):
    for day in DAYS:
        write_arrow_day(str(tmp_path / "t"), pa.table({"id": [str(day)]}), day, ["id"], COMMIT)
    found = read(spark, tmp_path, feed("t", "delta", id="string"), DAYS[:1])
    assert by(found, "id", "_folder_day") == {str(day): None for day in DAYS}
