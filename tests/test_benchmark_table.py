"""The one table of the benchmark: what is asked, how it is measured, and what is made of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import hits, load, nginx, rows, streams, wire, wrk
from benchmarks.backends import Measured, Results
from benchmarks.flows import DIRECT, PROXIED, Flows
from benchmarks.hit_rows import TARGETS, hit_rows
from benchmarks.hits import BARE, LANELESS, NGINX, OURS, PLAIN, WORKLOADS
from benchmarks.load import Rate, UnexpectedError
from benchmarks.other_rows import equal_row, flow_rows, store_rows
from benchmarks.peers import peer_row
from benchmarks.rows import Row
from benchmarks.samples import Sample, Samples
from benchmarks.servers import Cores, Servers, running
from benchmarks.stores import STORES, Work
from benchmarks.streams import Flow
from benchmarks.worker import Filled, Speed
from proxy.dialects.pieces import PIECE_CHARS

UNPINNED = Cores(None, None)
PRINTED = (
    "Running 1s test @ http://127.0.0.1:80/\n"
    'figures: {"answers": 2000, "bytes": 2340000, "micros": 500000, "p50": 250, "p99": 4000,'
    ' "broken": 0, "refused": 0}\n'
)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with running(tmp_path, UNPINNED) as started:
        yield started


def sample(per_s: float, cpu_us: float = 10.0, generator_share: float = 0.5) -> Sample:
    rate = Rate(int(per_s), per_s, 0.001, 0.002, generator_share, 1170.0)
    return Sample(rate, cpu_us / 1e6, 1.0)


def sampled(what: str, **by_whom: list[Sample]) -> Samples:
    samples = Samples()
    for whom, each in by_whom.items():
        samples.of[what, whom.replace("_", " ")] = each
    return samples


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.what)
def test_requests_have_the_size_they_say(workload: hits.Workload) -> None:
    """All requests of a workload differ in their number alone, and have the length they state."""
    one, other = workload.asking.request(1), workload.asking.request(2)
    head, _, body = one.partition(b"\r\n\r\n")
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    assert len(body) == (30_000 if workload is hits.LARGE else 700)
    assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
    said = json.loads(body)["messages"][-1]["content"]
    assert said.split()[0].encode() == wire.word_of(body) == workload.asking.word(1)


def test_an_sdk_sends_twenty_headers() -> None:
    """One of the workloads is asked as OpenAI's client asks."""
    lines = hits.SDK.asking.request(0).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert len({line.partition(b":")[0].lower() for line in lines}) == 20


def test_following_requests() -> None:
    """Hits are asked for in turn, misses never twice."""
    in_turn, new = wire.asking("a", 3), wire.asking("a", 0)
    following = in_turn.following()
    assert [following() for _ in range(4)] == [in_turn.request(n) for n in (0, 1, 2, 0)]
    following = new.following()
    assert len({following() for _ in range(100)}) == 100


def test_answers_have_the_size_they_say() -> None:
    """The word that tells answers apart is in them, whatever its length."""
    for model, size in {wire.MODEL: 1000, "answer:8000:0": 8000}.items():
        for word in ("a-000000001", "a-longer-name-000000001"):
            answer = wire.whole(model, word)
            assert len(answer) == size
            assert json.loads(answer)["choices"][0]["message"]["content"].startswith(f"{word} a")


def test_a_provider_answers_each_and_counts(servers: Servers) -> None:
    """Equal and different requests over many connections get their own answers, once each."""
    provider = servers.provider()
    asking = wire.asking("each", 50)
    requests = [asking.request(number) for number in range(50)]
    answers = load.ask_together(provider.port, requests)
    for number, answer in enumerate(answers):
        body = answer.partition(b"\r\n\r\n")[2]
        assert body == wire.whole(wire.MODEL, asking.word(number).decode())
    load.ask_each(provider.port, requests, connections=7)
    assert servers.asked(provider) == 100


def test_a_streamed_hit_has_as_many_chunks(servers: Servers) -> None:
    """The provider's chunks are as long as those that the proxy makes, and complete."""
    assert len(wire.piece(PLAIN.asking.word(0).decode(), 499)) == PIECE_CHARS
    assert streams.flow(servers.provider().port, "alone", 10).chunks_per_s > 0


def test_figures_of_wrk() -> None:
    """What the script prints at the end becomes a rate in seconds."""
    told = wrk.rate(PRINTED, cpu_s=0.25)
    assert told == Rate(2000, 4000.0, 0.00025, 0.004, 0.5, 1170.0)


@pytest.mark.parametrize(
    "printed",
    [
        "unable to connect",
        PRINTED.replace('"refused": 0', '"refused": 1'),
        PRINTED.replace('"broken": 0', '"broken": 1'),
        PRINTED.replace('"answers": 2000', '"answers": 0'),
    ],
)
def test_answers_that_are_none_are_not_measured(printed: str) -> None:
    """Errors are fast: a run that had one is no measurement."""
    with pytest.raises(UnexpectedError):
        wrk.rate(printed, cpu_s=0.25)


def test_wrk_sends_the_same_bytes() -> None:
    """What the script joins is the request, byte by byte."""
    asking = wire.asking("q", 10, model='a "model"', headers=("X: \\1\té",))
    told = re.search(r'before, after, different = "(.*)", "(.*)", 10\n', wrk.script(asking))
    assert told is not None
    before, after = (_unescaped(each) for each in told.groups())
    assert before + b"000000007" + after == asking.request(7)


def _unescaped(lua: str) -> bytes:
    return re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1])]), lua.encode())


def test_nginx_has_the_whole_body_in_its_key(tmp_path: Path) -> None:
    """A body above the buffer would not be in the key: all such questions would be one."""
    conf = nginx.configuration(tmp_path, "80", 81, caching=True)
    key = re.search(r'proxy_cache_key ".*\$request_body";', conf)
    assert key is not None
    for buffer in ("client_body_buffer_size", "proxy_buffer_size"):
        size = re.search(rf" {buffer} (\d+)k;", conf)
        assert size is not None
        assert int(size[1]) * 1024 > 2 * len(hits.LARGE.asking.request(0))
    assert "proxy_cache" not in nginx.configuration(tmp_path, "80", 81, caching=False).replace(
        "proxy_cache_path", ""
    )


def test_ratios_are_those_within_the_rounds() -> None:
    """A slow round is slow for both, and does not count against one of them."""
    ours = [sample(100.0, 20.0), sample(10.0, 20.0), sample(90.0, 20.0)]
    theirs = [sample(50.0, 30.0), sample(5.0, 30.0), sample(60.0, 60.0)]
    samples = sampled("hits", proxy=ours, nginx=theirs)
    verdict = samples.compare("hits", OURS, NGINX)
    assert (verdict.by_rate, verdict.by_cpu, verdict.full) == (2.0, 1.5, False)
    assert verdict.ratio == 1.5
    assert samples.per_s("hits", OURS) == 90.0


@pytest.mark.parametrize("full", [OURS, NGINX])
def test_a_full_load_generator_is_no_judge(full: str) -> None:
    """Where it has no more to give, processor time is compared, and the row says so."""
    shares = {whom: 0.99 if whom == full else 0.5 for whom in (OURS, NGINX)}
    samples = sampled(
        PLAIN.what,
        proxy=[sample(100.0, 10.0, shares[OURS])],
        nginx=[sample(100.0, 16.0, shares[NGINX])],
    )
    assert samples.compare(PLAIN.what, OURS, NGINX).ratio == pytest.approx(1.6)
    (row,) = (row for row in hit_rows(samples) if row.measure.startswith("hits/s"))
    assert (row.ratio, row.mark) == ("1.00", "reached (load full: by cpu)")


def test_a_row_for_each_target() -> None:
    """Whatever a target is set for has a row, with and without the hit lane."""
    samples = Samples()
    for workload in WORKLOADS:
        for whom in (OURS, LANELESS, NGINX, BARE):
            samples.of[workload.what, whom] = [sample(100.0)]
    told = list(hit_rows(samples))
    for (what, whom, other), target in TARGETS.items():
        title = f"hits/s, {what}" + (" (hit_lane = false)" if whom == LANELESS else "")
        (row,) = (row for row in told if (row.measure, row.than) == (title, other))
        assert (row.target, row.mark) == (f">= {target:g} x", "reached" if target <= 1 else "short")
    assert {(row.measure, row.target) for row in told if row.target.startswith("<=")} == {
        ("p50 at 1 connection", "<= 1 x"),
        ("p99 at 1 connection", "<= 1 x"),
        ("CPU per hit", "<= 10 us"),
    }


def test_the_first_chunk_is_compared_with_direct() -> None:
    """What is added is the difference within a round."""
    flows = Flows()
    flows.of[DIRECT] = [Flow(0.001, 100.0), Flow(0.005, 100.0)]
    flows.of["httpx over aiohttp"] = [Flow(0.002, 80.0), Flow(0.006, 80.0)]
    flows.of[PROXIED] = [Flow(0.0014, 60.0), Flow(0.0054, 60.0)]
    first, _, chunks, forwarded = flow_rows(flows)
    assert (first.figure, first.target, first.mark) == ("0.400 ms", "<= 0.5 ms", "reached")
    assert (chunks.ratio, chunks.target, chunks.mark) == ("0.60", ">= 0.7 x", "short")
    assert (forwarded.ratio, forwarded.mark) == ("0.75", "")


def test_growth_is_the_worse_of_time_and_cpu() -> None:
    """Neighbours flatter a rate, but take no processor time: both must bear the size."""
    work = Work("lookup")
    store = next(store for store in STORES if store.title == "memory")
    measured = Measured(store, [1_000, 1_000_000])
    measured.filled[1_000_000] = Filled(1.0, 1936, 2_500.0)
    measured.speeds[work, 1_000] = [Speed(1000.0, 0.0, 0.0, 1e-6)]
    measured.speeds[work, 1_000_000] = [Speed(1000.0, 0.0, 0.0, 1.5e-6)]
    space, lookups = store_rows(Results([measured]))
    assert (space.figure, space.measure) == ("2,384 MiB", "memory, RSS per million entries")
    assert (lookups.ratio, lookups.by_cpu, lookups.mark) == ("1.00", "1.50", "short")


def test_targets_are_counted() -> None:
    """Each is reached or not; rows without one are printed only."""
    assert equal_row(1).mark == "reached"
    assert equal_row(2).mark == "short"
    assert peer_row(sampled(PLAIN.what, proxy=[sample(600.0)], L=[sample(1.0)]), "L").ratio == "600"
    assert rows.short([equal_row(1), equal_row(2), Row("printed")]) == 1


def test_what_is_above_is_not_said_again() -> None:
    """Rows about the same figure show it once."""
    told = rows.text([Row("hits/s", "10/s", "nginx"), Row("hits/s", "10/s", "bare", mark="short")])
    assert [line.split() for line in told.splitlines()[1:]] == [
        ["hits/s", "10/s", "nginx"],
        ["bare", "short"],
    ]


def test_what_is_missing_is_told(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nginx and wrk the proxy's hits are measured beside bare uvicorn, and it says so."""
    monkeypatch.setattr(hits, "has_lane", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    samples = Samples()
    plan = hits.Plan(rounds=1, workloads=(PLAIN,))
    notes = hits.measure(servers, servers.provider(), plan, samples, lambda _: None)
    assert notes == [nginx.MISSING, wrk.MISSING]
    assert not samples.has(PLAIN.what, NGINX)
    assert samples.per_s(PLAIN.what, OURS) > 0
    assert samples.per_s(PLAIN.what, BARE) > 0


def test_a_server_that_gives_wrong_answers_is_not_measured(servers: Servers) -> None:
    """A cache that answers different questions alike has no hits."""
    bare = hits.Cache(servers.bare("bare", wire.MODEL), b"200 OK")
    with pytest.raises(UnexpectedError, match="not the answer to b'plain-000000000'"):
        hits.warm(bare, PLAIN.asking)
