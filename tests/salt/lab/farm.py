"""Minions that do not exist, all in one process, on a real master: they answer pings and start real wrappers.

Arguments: the master's configuration directory, how many, ids that stay silent. Says "ready" when it listens and ends
with its standard input. The master knows the minions by their accepted keys; what it publishes is read from its event
bus, and a command's return goes the way of the master's own workers: into the job cache, and onto the bus.
"""
import os
import queue
import subprocess
import sys
import threading
import time

import jinja2
import salt.config
import salt.minion
import salt.utils.event
import salt.utils.job

STARTERS = 4  # commands at a time: the host has few cores, and all minions are on it
config, count, silent = sys.argv[1], int(sys.argv[2]), set(sys.argv[3:])
opts = salt.config.master_config(os.path.join(config, "master"))
MINIONS = {"farm%05d" % number for number in range(count)}
WORK = queue.Queue()
LOCK = threading.Lock()


KEYS = os.path.join(opts["pki_dir"], "minions")


def accept_keys():
    with open(os.path.join(KEYS, sorted(os.listdir(KEYS))[0])) as file:
        key = file.read()
    for minion in MINIONS:
        with open(os.path.join(KEYS, minion), "w") as file:
            file.write(key)


def end_with_input():
    sys.stdin.read()
    for minion in MINIONS:
        os.unlink(os.path.join(KEYS, minion))
    os._exit(0)


def run_all(minion, kwarg):
    command = jinja2.Template(kwarg["cmd"]).render(salt={}, grains={"id": minion})
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=dict(os.environ, **kwarg.get("env") or {}), cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return {"pid": 1, "retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def wait_until_stored(jid):
    """The master tells of a job before it has stored it; no minion over a network is that quick."""
    while True:
        try:
            if MASTER.returners["local_cache.get_load"](jid).get("Minions"):
                return
        except Exception:  # half of it is there
            pass
        time.sleep(0.01)


def load_of(minion, job, answer):
    return {
        "cmd": "_return", "id": minion, "jid": job["jid"], "fun": job["fun"], "fun_args": job["arg"],
        "return": answer, "retcode": 0, "success": True,
    }  # fmt: skip


def serve():
    master = salt.minion.MasterMinion(opts, states=False, rend=False)
    bus = salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False)
    while True:
        minion, job = WORK.get()
        kwarg = next((part for part in job["arg"] if isinstance(part, dict)), {})
        load = load_of(minion, job, run_all(minion, kwarg))
        with LOCK:
            salt.utils.job.store_job(opts, load, event=bus, mminion=master)


accept_keys()
MASTER = salt.minion.MasterMinion(opts, states=False, rend=False)
published = salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=True)
published.connect_pub(timeout=10)
answers = salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False)
for starter in [serve] * STARTERS:
    threading.Thread(target=starter, daemon=True).start()
threading.Thread(target=end_with_input, daemon=True).start()
print("ready", flush=True)
while True:
    event = published.get_event(wait=1, tag="salt/job/", full=True, match_type="startswith")
    if not event or not event["tag"].endswith("/new"):
        continue
    job = event["data"]
    targets = sorted(MINIONS.intersection(job["minions"]) - silent)
    if job["fun"] not in ("test.ping", "cmd.run_all") or not targets:
        continue
    wait_until_stored(job["jid"])
    for minion in targets:
        if job["fun"] == "test.ping":
            # minions of a fleet answer all at once: without what the master looks up again for each
            load = load_of(minion, job, True)
            MASTER.returners["local_cache.returner"](load)
            answers.fire_event(load, "salt/job/%s/ret/%s" % (job["jid"], minion))
        else:
            WORK.put((minion, job))
