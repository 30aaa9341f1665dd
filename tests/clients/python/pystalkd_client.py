"""Every call of pystalkd (PyPI), against the server on DJQS_PORT."""

import os
from datetime import timedelta

from pystalkd.Beanstalkd import CommandFailed, Connection, DeadlineSoon


def fails(call, *args, **kwargs):
    try:
        result = call(*args, **kwargs)
    except CommandFailed:
        return
    raise AssertionError(f"{call.__name__}{args} gave {result!r}")


connection = Connection("127.0.0.1", int(os.environ["DJQS_PORT"]))
assert connection.tubes() == ["default"] and connection.using() == "default"
assert connection.watching() == ["default"]

assert connection.use("mail") == "mail"
assert connection.watch("mail") == 2 and connection.ignore("default") == 1
fails(connection.ignore, "mail")
with connection.temporary_use("other"):
    assert connection.using() == "other"
with connection.temporary_watch("other"):
    assert sorted(connection.watching()) == ["mail", "other"]
assert (connection.using(), connection.watching()) == ("mail", ["mail"])

first = connection.put("first", priority=3, delay=0, ttr=timedelta(seconds=90))
second = connection.put_bytes(b"\xff\x00", delay=timedelta(seconds=100))
assert (first, second) == (1, 2)
job = connection.reserve()
assert (job.job_id, job.body) == (first, "first")
assert job.stats()["pri"] == 3 and job.stats()["ttr"] == 90 and job.stats()["state"] == "reserved"
job.touch()
job.release()
assert connection.stats_job(first)["pri"] == 3, "it asked for the priority"
job = connection.reserve(timeout=5)
job.bury()
assert connection.peek_buried().job_id == first
job.kick()
job = connection.reserve_bytes(timeout=timedelta(seconds=5))
assert job.body == b"first"
job.release(priority=8, delay=60)
assert connection.stats_job(first)["state"] == "delayed" and connection.stats_job(first)["pri"] == 8
assert connection.reserve(timeout=0) is None
assert connection.peek_delayed().job_id == first
connection.kick_job(first)
assert connection.peek_ready().job_id == first and connection.peek(first).body == "first"
assert connection.kick() == 1 and connection.kick(5) == 0
fails(connection.kick_job, 99)
assert connection.peek(99) is None and connection.peek_delayed() is None and connection.peek_buried() is None

job = connection.reserve(timeout=0)
connection.touch(job.job_id)
connection.release(job.job_id, priority=8, delay=timedelta(seconds=0))
job = connection.reserve(timeout=0)
connection.bury(job.job_id, priority=8)
fails(connection.touch, job.job_id)
fails(connection.release, job.job_id)
connection.delete(job.job_id)
fails(connection.delete, job.job_id)

stats = connection.stats()
assert stats["total-jobs"] == 2 and stats["version"] and stats["hostname"], stats
tube = connection.stats_tube("mail")
assert tube["name"] == "mail" and tube["current-jobs-delayed"] + tube["current-jobs-ready"] == 1, tube
fails(connection.stats_tube, "nothing")
fails(connection.stats_job, 99)
connection.pause_tube("mail", 60)
assert connection.reserve(timeout=0) is None
connection.pause_tube("mail", 0)

connection.put("soon", priority=0, ttr=1)
job = connection.reserve(timeout=5)
connection.pause_tube("mail", timedelta(seconds=60))
try:
    connection.reserve(timeout=5)
    raise AssertionError("the time of its job is nearly up")
except DeadlineSoon:
    pass
job.delete()

connection.reconnect()
assert connection.using() == "default"
connection.close()
print("pystalkd: every call")
