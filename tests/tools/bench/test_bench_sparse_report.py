"""The table and the last line of the engines' benchmark, on numbers one can check by eye."""

from distilplace.tools.bench_sparse.cases import TRUNK_BACKWARD, TRUNK_FORWARD
from distilplace.tools.bench_sparse.native import NAME as NATIVE
from distilplace.tools.bench_sparse.report import Result, choose_reference, ratio, summaries, table


def result(engine: str, case: str, times: list[float], clouds: str = "real", batch: int = 8) -> Result:
    return Result(clouds, batch, 10, case, engine, "torch", times, 1.0, 0.0)


def test_headline_takes_the_faster_minkowski_and_the_rounds_own_ratios() -> None:
    rows = [
        result("torch", TRUNK_FORWARD, [1, 2, 4]),
        result("minkowski", TRUNK_FORWARD, [9, 9, 9]),
        result(NATIVE, TRUNK_FORWARD, [3, 5, 8]),  # 3, 2.5 and 2 times
        result("torch", TRUNK_BACKWARD, [10, 10, 10]),
        result("minkowski", TRUNK_BACKWARD, [20, 21, 22]),
        result(NATIVE, TRUNK_BACKWARD, [30, 30, 30]),
        result("spconv", TRUNK_FORWARD, [50, 50, 50]),
        result("spconv", TRUNK_BACKWARD, [50, 50, 50]),
    ]
    wanted = "trunk batch 8: forward 2.50x, forward+backward 2.10x vs minkowski"
    assert list(summaries(rows, "torch", "")) == [("real", 8, wanted)]
    assert ratio([3, 5, 8], [1, 2, 4]) == 2.5


def test_without_minkowski_the_opponent_is_the_slowest_other_engine() -> None:
    rows = [
        result(name, case, [time] * 3)
        for case in (TRUNK_FORWARD, TRUNK_BACKWARD)
        for name, time in (("triton", 1.0), ("spconv", 2.0), ("torch", 4.0))
    ]
    lines = [line for _, _, line in summaries(rows, "triton", "")]
    assert lines == ["trunk batch 8: forward 4.00x, forward+backward 4.00x vs torch"]
    alone = [each for each in rows if each.engine == "triton"]
    lines = [line for _, _, line in summaries(alone, "triton", "it is alone")]
    assert lines == ["trunk batch 8: forward 1.0 ms, forward+backward 1.0 ms (it is alone)"]
    assert choose_reference(["triton", "torch"]) == "torch"
    assert choose_reference(["torch", "minkowski", NATIVE]) == NATIVE


def test_table_is_aligned() -> None:
    lines = table(
        [result("torch", "map building", [1.0, 2.0, 3.0]), result("long-name", "x", [1000.0] * 3)]
    ).splitlines()
    assert lines[1].split() == ["real", "8", "map", "building", "torch", "2.000", "100%", "1.00", "-", "-"]
    assert len({len(line) for line in lines}) == 1
