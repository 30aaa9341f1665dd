"""Every call of greenstalk (PyPI), against the server on DJQS_PORT."""

import os
import socket

import greenstalk

ADDRESS = ("127.0.0.1", int(os.environ["DJQS_PORT"]))


def raises(error, call, *args, **kwargs):
    try:
        result = call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"{call.__name__}{args} gave {result!r}, not {error.__name__}")


with greenstalk.Client(ADDRESS) as client:
    assert (client.using(), client.watching(), client.tubes()) == ("default", ["default"], ["default"])

    # Producer.
    client.use("mail")
    assert client.using() == "mail"
    first = client.put("first", priority=10, delay=0, ttr=100)
    second = client.put("second", priority=5)
    third = client.put("third", delay=100)
    assert (first, second, third) == (1, 2, 3)
    raises(greenstalk.JobTooBigError, client.put, "x" * 65536)
    largest = client.put("y" * 65535)
    assert len(client.peek(largest).body) == 65535
    client.delete(largest)

    # Worker.
    raises(greenstalk.TimedOutError, client.reserve, timeout=0)
    assert client.watch("mail") == 2 and client.watch("mail") == 2
    assert client.ignore("default") == 1
    raises(greenstalk.NotIgnoredError, client.ignore, "mail")
    assert client.watching() == ["mail"]
    job = client.reserve()
    assert (job.id, job.body) == (second, "second")
    client.touch(job)
    client.release(job, priority=20, delay=0)
    job = client.reserve(timeout=5)
    assert job.id == first
    client.bury(job, priority=7)
    assert client.peek_buried().id == first
    raises(greenstalk.NotFoundError, client.touch, job)
    assert client.kick(10) == 1
    job = client.reserve()
    stats = client.stats_job(job)
    assert stats["id"] == first and stats["tube"] == "mail" and stats["state"] == "reserved", stats
    assert stats["pri"] == 7 and stats["ttr"] == 100, stats
    assert (stats["reserves"], stats["buries"], stats["kicks"], stats["timeouts"]) == (2, 1, 1, 0), stats
    client.delete(job)
    raises(greenstalk.NotFoundError, client.delete, job)
    job = client.reserve_job(third)
    assert job.body == "third"
    client.release(job, delay=50)
    stats = client.stats_job(third)
    assert (stats["state"], stats["delay"], stats["releases"]) == ("delayed", 50, 1), stats
    raises(greenstalk.NotFoundError, client.reserve_job, 99)

    # Looks.
    assert client.peek(second).body == "second"
    assert client.peek_ready().id == second
    assert client.peek_delayed().id == third
    raises(greenstalk.NotFoundError, client.peek_buried)
    client.kick_job(third)
    raises(greenstalk.NotFoundError, client.kick_job, third)
    tube = client.stats_tube("mail")
    assert tube["name"] == "mail" and tube["current-jobs-ready"] == 2 and tube["total-jobs"] == 4, tube
    assert tube["current-using"] == 1 and tube["current-watching"] == 1, tube
    raises(greenstalk.NotFoundError, client.stats_tube, "nothing")
    stats = client.stats()
    assert stats["current-jobs-ready"] == 2 and stats["cmd-put"] == 4, stats
    assert set(client.tubes()) == {"default", "mail"}
    client.pause_tube("mail", 60)
    raises(greenstalk.TimedOutError, client.reserve, timeout=0)
    assert client.stats_tube("mail")["pause"] == 60
    client.pause_tube("mail", 0)

    # The warning before a worker's time is up.
    urgent = client.put("urgent", priority=0, ttr=1)
    assert client.reserve(timeout=5).id == urgent
    client.pause_tube("mail", 60)
    raises(greenstalk.DeadlineSoonError, client.reserve, timeout=5)
    client.delete(urgent)
    client.pause_tube("mail", 0)
    raises(greenstalk.BadFormatError, client.use, "-bad")
    raises(greenstalk.UnknownCommandError, client._send_cmd, b"nonsense", b"OK")

# A body as bytes, a tube and a watch list from the start, a socket of one's own.
with greenstalk.Client(ADDRESS, encoding=None, use="raw", watch=["raw", "mail"]) as client:
    assert client.using() == "raw" and client.watching() == ["raw", "mail"]
    raw = client.put(bytes(range(256)))
    assert client.reserve_job(raw).body == bytes(range(256))
own = socket.create_connection(ADDRESS)
with greenstalk.Client(own, encoding=None, use="raw", watch="raw") as client:
    # The job of a connection that is gone is ready again.
    assert client.reserve(timeout=5).id == raw

print("greenstalk: every call")
