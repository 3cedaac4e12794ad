"""Saltpeter's door to Salt: publishes jobs and streams each minion's return (JSON lines, protocol 1).

Started by the daemon with the Python that has Salt; `-c` names the master's configuration. It only calls
LocalClient.pub() and reads returns from the master's event bus. It holds nothing that matters: the daemon makes the
job ids and asks again when this process is lost. Must not know: runs, jobs, wrappers. Salt 3006 to 3008, Python 3.8+.
"""
import collections
import json
import os
import queue
import sys
import threading
import time

STARTED = time.monotonic()
PROTO = 1
PUBLISHERS = 4  # publishes at a time
PUBLISH_QUEUE = 65536  # requests that wait for a publisher
ENDED_KEPT = 2000  # jobs whose late returns are still reported
HEARD_KEPT = 65536  # minions of which it is known when they returned anything last
BUS_STALE_S = 2.0  # a publish that the bus has not shown by then: the bus is dead
BUS_RETRY_S = 1.0
LOOK_S = 0.25  # times are looked at no more often, however many events come
CACHE_LOOK_S = 3.0  # a job that lacks returns after such a silence is looked up in the job cache, later ever more seldom
CACHE_LOOK_MAX_S = 30.0
REPEAT_AFTER_S = (5.0, 12.0)  # from the publish of a ping to publishing it again to those that are silent
RETURN_CHARS = 65536  # kept of one text in a return, unless the request says otherwise

# Salt prints to stdout here and there: what was stdout speaks the protocol, stdout itself goes to the log
OUT = os.dup(1)
os.dup2(2, 1)
OUT_LOCK = threading.Lock()


def emit(**event):
    line = (json.dumps(event, ensure_ascii=False, default=plain) + "\n").encode("utf-8", "replace")
    with OUT_LOCK:
        while line:
            line = line[os.write(OUT, line) :]


def plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def fatal(kind, error):
    emit(ev="fatal", kind=kind, msg=str(error), python=sys.version.split()[0])
    os._exit(3)


try:
    import logging

    import salt.client
    import salt.config
    import salt.exceptions
    import salt.loader
    import salt.utils.event
    import salt.utils.minions
    import salt.version
except Exception as error:  # a broken installation raises anything
    fatal("import", error)
logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s", force=True)


class Job:
    """A publish that is followed."""

    def __init__(self, request):
        self.id = request["id"]
        self.jid = request["jid"]
        self.timeout = float(request.get("timeout", 30))
        self.patience = float(request.get("patience", 0))  # with minions that answer something else meanwhile
        self.limit = int(request.get("ret_limit", RETURN_CHARS))
        self.waiting = None  # minions that have not answered; known once it is published
        self.gone = set()  # given up
        self.got = set()
        self.next_silence = 0.0  # the next look for silent minions costs one into the job cache
        self.published = None
        self.heard = 0.0  # when a return came last
        self.seen_on_bus = False
        self.fun = request["fun"]
        self.repeat_after = list(REPEAT_AFTER_S) if self.fun == "test.ping" else []
        self.next_look = None  # into the job cache: the bus loses a return now and then


LOCK = threading.RLock()
HEARD = collections.OrderedDict()  # minion -> when it returned anything last, oldest first; the bus thread's own
JOBS = {}  # jid -> Job that is followed
ENDED = collections.OrderedDict()  # jid -> Job whose late returns are told
CANCELLED = set()  # ids cancelled before they were published
QUEUE = queue.Queue(PUBLISH_QUEUE)
WAITING = {}  # id -> request not yet published
FILL = threading.Event()  # the job cache is to be looked into
OPTS = {}


def cut(value, limit):
    if isinstance(value, bytes):
        value = plain(value)
    if isinstance(value, str) and len(value) > limit:
        half = limit // 2
        return "%s\n[%d characters left out]\n%s" % (value[:half], len(value) - 2 * half, value[-half:])
    if isinstance(value, dict):
        return {str(plain(k)): cut(v, limit) for k, v in value.items()}
    return value


def returned(jid, minion, data, via):
    with LOCK:
        job = JOBS.get(jid) or ENDED.get(jid)
        if job is None or minion in job.got or (jid not in JOBS and minion not in job.gone):
            return
        late = minion in job.gone
        job.got.add(minion)
        if job.waiting:
            job.waiting.discard(minion)
        job.heard = time.monotonic()
        emit(
            id=job.id, ev="late" if late else "ret", jid=jid, minion=minion, via=via,
            ret=cut(data.get("return", data.get("ret")), job.limit),
            retcode=data.get("retcode", 0), success=data.get("success"),
        )  # fmt: skip
        if not late:
            finish_if_complete(job)


def finish_if_complete(job):
    if job.waiting is not None and not job.waiting:
        finish(job, "timeout" if job.gone else "complete")


def give_up(job, minions):
    """They will not be heard; the job goes on with those that still may."""
    job.gone |= minions
    job.waiting -= minions
    if not job.waiting:
        finish(job, "timeout")
    elif minions:
        emit(id=job.id, ev="gone", jid=job.jid, minions=sorted(minions))


def finish(job, why):
    missing = sorted(job.gone.union(job.waiting or ()))
    # of what is over only late returns are told: the others' names need not be kept
    job.gone, job.got, job.waiting = job.gone.union(job.waiting or ()) - job.got, set(), set()
    JOBS.pop(job.jid, None)
    ENDED[job.jid] = job
    while len(ENDED) > ENDED_KEPT:
        ENDED.popitem(last=False)
    emit(id=job.id, ev="done", jid=job.jid, missing=missing, why=why)


def cache(returners, function, jid):
    return returners["%s.%s" % (OPTS.get("master_job_cache", "local_cache"), function)](jid) or {}


def fill_from_cache(returners, jobs):
    """Returns that the bus did not show: while it was down, or before this process followed the job."""
    for job in jobs:
        try:
            for minion, data in cache(returners, "get_jid", job.jid).items():
                if isinstance(data, dict) and ("return" in data or "ret" in data):
                    returned(job.jid, minion, data, "cache")
        except Exception as error:  # an external job cache fails in its own ways
            print("job cache: %s: %s" % (type(error).__name__, error), file=sys.stderr)


def listed(tgt, tgt_type):
    if tgt_type != "list":
        return set()
    return set(tgt if isinstance(tgt, list) else [name.strip() for name in tgt.split(",")])


def kind_of(error):
    if isinstance(error, salt.exceptions.SaltReqTimeoutError):
        return "master_timeout"
    if type(error) is salt.exceptions.SaltClientError:
        return "master_down" if not error.args or "publisher" in str(error) else "SaltClientError"
    if isinstance(error, salt.exceptions.EauthAuthenticationError):
        return "auth"
    return type(error).__name__


def publish(client, request):
    tgt, tgt_type, jid = request["tgt"], request.get("tgt_type", "glob"), request["jid"]
    job, took_ms = Job(request), 0
    if tgt_type == "range" and not getattr(salt.utils.minions, "HAS_RANGE", True):
        # Salt only logs it, and matches nobody
        return emit(id=job.id, ev="error", kind="no_range", msg="this Python has no package seco.range")
    with LOCK:
        if jid in JOBS:
            return emit(id=job.id, ev="error", kind="duplicate_jid", msg="job id %s is followed already" % jid)
        JOBS[jid] = job  # before the publish: returns may be faster than its answer
    try:
        # asked again after this process was lost: what the master has stored was published
        known = cache(client.returners, "get_load", jid) if request.get("again") else {}
        if request.get("follow") and not known:
            raise LookupError("the master does not know job %s any more" % jid)
        if known:
            minions, job.seen_on_bus = known.get("Minions") or known.get("minions") or [], True
        else:
            arg = list(request.get("arg") or [])
            if request.get("kwarg"):
                arg.append(dict(request["kwarg"], __kwarg__=True))
            asked = time.monotonic()
            answer = client.pub(
                tgt, request["fun"], arg=arg, tgt_type=tgt_type, jid=jid,
                timeout=float(request.get("publish_timeout", 5)),
            )  # fmt: skip
            if not answer:
                raise salt.exceptions.EauthAuthenticationError(
                    "the master refused the publish: this user may not publish, or the key is not the master's"
                )
            minions = answer.get("minions") or []
            took_ms = int((time.monotonic() - asked) * 1000)
    except Exception:
        with LOCK:
            JOBS.pop(jid, None)
        raise
    with LOCK:
        unknown = sorted(listed(tgt, tgt_type) - set(minions))
        if not minions:
            JOBS.pop(jid, None)
            return emit(id=job.id, ev="error", kind="no_match", msg="no minion matches", unknown=unknown)
        job.waiting, job.published = set(minions) - job.got, time.monotonic()
        # the time in a queue of this process is not the master's
        emit(id=job.id, ev="pub", jid=jid, minions=sorted(minions), unknown=unknown, took_ms=took_ms)
        finish_if_complete(job)
    if known:
        FILL.set()


def repeat(client, job):
    """A minion that was on its way back to a restarted master has missed the publish. One that has it drops the second:
    it remembers the last job ids."""
    with LOCK:
        silent_now = sorted(job.waiting or ())
    if silent_now and job.jid in JOBS:
        client.pub(silent_now, job.fun, tgt_type="list", jid=job.jid, timeout=5.0)


def resolve(request):
    tgt, tgt_type = request["tgt"], request.get("tgt_type", "glob")
    minions = salt.utils.minions.CkMinions(OPTS).check_minions(tgt, tgt_type)["minions"]
    unknown = sorted(listed(tgt, tgt_type) - set(minions))
    emit(id=request["id"], ev="pub", jid=None, minions=sorted(minions), unknown=unknown)
    emit(id=request["id"], ev="done", jid=None, missing=[], why="complete")


def publisher():
    client = None  # LocalClient is not thread safe: one for each thread
    while True:
        request = QUEUE.get()
        with LOCK:
            WAITING.pop(request["id"], None)
            if request["id"] in CANCELLED and request["op"] != "repeat":
                CANCELLED.discard(request["id"])
                continue
        try:
            if request["op"] == "resolve":
                resolve(request)
                continue
            if client is None:
                client = salt.client.LocalClient(mopts=dict(OPTS))
            if request["op"] == "repeat":
                repeat(client, request["job"])
                continue
            publish(client, request)
        except BaseException as error:  # Salt raises SystemExit, too
            client = None
            if request["op"] == "repeat":
                print("repeating a ping: %s: %s" % (type(error).__name__, error), file=sys.stderr)
                continue
            emit(id=request["id"], ev="error", kind=kind_of(error), msg=str(error) or type(error).__name__)


def follow_bus():
    """The only reader of the bus; also keeps the time of all jobs."""
    returners = salt.loader.returners(OPTS, {})
    bus, told, alive, next_look = None, None, 0.0, 0.0
    while True:
        if bus is None:
            try:
                bus = salt.utils.event.get_master_event(OPTS, OPTS["sock_dir"], listen=True, raise_errors=True)
                if not bus.connect_pub(timeout=2):
                    raise OSError("nobody answers on the event bus in %s" % OPTS["sock_dir"])
                alive, up, why = time.monotonic(), True, ""
                FILL.set()
            except Exception as error:
                bus, up, why = close(bus), False, str(error)
            if up != told:
                emit(ev="bus", up=up, msg=why)
                told = up
        begun, event = time.monotonic(), None
        if bus is not None:
            try:
                event = bus.get_event(wait=0.25 if JOBS else 1, tag="salt/job/", full=True, match_type="startswith")
            except Exception as error:
                print("event bus: %s: %s" % (type(error).__name__, error), file=sys.stderr)
                bus = close(bus)
        if event is None and time.monotonic() - begun < 0.05:
            bus = close(bus)  # it returned at once and brought nothing: closed
            time.sleep(BUS_RETRY_S)
        if event is not None:
            alive = time.monotonic()  # reconnecting a bus that works would lose what it carries
            part = event["tag"].split("/")
            with LOCK:
                if len(part) == 4 and part[3] == "new" and part[2] in JOBS:
                    JOBS[part[2]].seen_on_bus = True
            if len(part) == 5 and part[3] == "ret":
                hear(part[4], alive)
                returned(part[2], part[4], event["data"], "bus")
        if time.monotonic() >= next_look:
            if look_at_times(returners, alive):
                bus = close(bus)
            next_look = time.monotonic() + LOOK_S


def hear(minion, now):
    HEARD[minion] = now
    HEARD.move_to_end(minion)
    if len(HEARD) > HEARD_KEPT:
        HEARD.popitem(last=False)


def silent(job, now):
    """Who does not answer, but answers others, has much to do: only who is silent is given up before the patience ends."""
    if now >= job.published + max(job.timeout, job.patience):
        return set(job.waiting)
    if now < max(job.published + job.timeout, job.next_silence):
        return set()
    return {minion for minion in job.waiting if now >= HEARD.get(minion, 0.0) + job.timeout}


def look_at_times(returners, alive):
    """Gives up who has had its time. True: the bus has missed a publish."""
    now = time.monotonic()
    with LOCK:
        jobs = [job for job in JOBS.values() if job.published]
        over = {job: minions for job, minions in ((job, silent(job, now)) for job in jobs) if minions}
        unseen = [j for j in jobs if not j.seen_on_bus and now - max(j.published, alive) > BUS_STALE_S]
    if FILL.is_set():
        FILL.clear()
        fill_from_cache(returners, jobs)
    else:
        doubtful = [
            job for job in jobs if now >= (job.next_look or job.published) and now - max(job.heard, job.published) >= CACHE_LOOK_S
        ]
        for job in doubtful:
            job.next_look = now + min(CACHE_LOOK_MAX_S, now - job.published)
        fill_from_cache(returners, set(doubtful).union(over))
    for job in jobs:
        if job.repeat_after and now >= job.published + job.repeat_after[0]:
            job.repeat_after.pop(0)
            if job.waiting and now - job.heard >= CACHE_LOOK_S and not QUEUE.full():
                QUEUE.put({"op": "repeat", "id": job.id, "job": job})
    with LOCK:
        for job, minions in over.items():
            job.next_silence = now + CACHE_LOOK_S
            if job.jid in JOBS:
                give_up(job, minions & job.waiting)
        for job in unseen:
            job.seen_on_bus = True  # once is enough
    return bool(unseen)


def close(bus):
    try:
        if bus is not None:
            bus.destroy()
    except Exception:
        pass


def hello(**more):
    with LOCK:
        pending = len(JOBS) + len(WAITING)
    emit(
        ev="hello", proto=PROTO, salt=salt.version.__version__, python=sys.version.split()[0], exe=sys.executable,
        pid=os.getpid(), user=OPTS.get("user"), sock_dir=OPTS["sock_dir"],
        start_ms=int((time.monotonic() - STARTED) * 1000), pending=pending, **more
    )  # fmt: skip


def serve(line):
    request = json.loads(line)
    op = request["op"]
    if op == "stop":
        os._exit(0)
    if op == "status":
        return hello(id=request.get("id"))
    if op == "fill":
        FILL.set()
        return None
    if op == "cancel":
        with LOCK:
            jobs = [job for job in JOBS.values() if job.id == request["of"]]
            if request["of"] in WAITING:
                CANCELLED.add(request["of"])
                emit(id=request["of"], ev="done", jid=None, missing=[], why="cancelled")
            for job in jobs:
                finish(job, "cancelled")
        return None
    if op not in ("run", "resolve"):
        raise ValueError("unknown op %r" % (op,))
    missing = [key for key in ("id", "tgt") + (("jid", "fun") if op == "run" else ()) if key not in request]
    if missing:
        raise ValueError("missing: %s" % ", ".join(missing))
    with LOCK:
        WAITING[request["id"]] = request
    QUEUE.put(request)
    return None


def main():
    path = sys.argv[sys.argv.index("-c") + 1] if "-c" in sys.argv else "/etc/salt"
    path = os.path.join(path, "master") if os.path.isdir(path) else path
    try:
        OPTS.update(salt.config.client_config(path))
    except BaseException as error:
        fatal("config", error)
    hello()
    for _ in range(PUBLISHERS):
        threading.Thread(target=publisher, daemon=True).start()
    threading.Thread(target=follow_bus, daemon=True).start()
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)  # the daemon is gone
        try:
            serve(line)
        except Exception as error:
            emit(id=None, ev="error", kind="bad_request", msg="%s: %s" % (type(error).__name__, error))


main()
