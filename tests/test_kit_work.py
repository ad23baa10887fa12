import signal
import threading

import pytest

from sightline.kit.work import RecentRate, backoff_s, map_ahead, uninterrupted, usable_cpus


def test_results_come_in_order():
    assert list(map_ahead(lambda number: number * number, range(50), threads=4, ahead=8)) == [n * n for n in range(50)]
    assert list(map_ahead(str, (), threads=2, ahead=2)) == []


def test_no_more_than_asked_is_taken_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_ahead(lambda number: number, items(), threads=2, ahead=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 5
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 3 + 5


def test_an_error_comes_at_its_place_and_stops_the_rest():
    begun = threading.Semaphore(0)

    def refuse_two(number):
        begun.release()
        if number == 2:
            raise ValueError("two")
        return number

    results = map_ahead(refuse_two, range(100), threads=1, ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert sum(begun.acquire(blocking=False) for _ in range(100)) < 10


def test_there_is_a_cpu():
    assert usable_cpus() >= 1


def test_waits_are_doubled_spread_and_limited():
    waits = [backoff_s(tried, first_s=1, longest_s=8) for tried in (1, 2, 3, 4, 9)]
    assert all(low / 2 <= wait <= low for wait, low in zip(waits, (1, 2, 4, 8, 8), strict=True))


def test_ctrl_c_waits_for_the_end_of_a_write():
    done = []

    def write():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_rate_is_that_of_the_last_seconds():
    rate = RecentRate(10.0)
    assert rate.at(0.0, 0) == 0.0
    assert rate.at(2.0, 10) == 5.0
    assert rate.at(11.0, 100) == 10.0  # since 2 s: what lies before the window is forgotten
