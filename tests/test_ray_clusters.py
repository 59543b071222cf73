"""`--ray ADDRESS`: a cluster that runs already, two drivers on it, and one of them killed. It needs the extra "ray"."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import REPOSITORY
from helpers.extras import need
from helpers.pictures import classifier, photos, table

from lrp_tf import cli
from lrp_tf.files.errors import LoadError
from lrp_tf.gallery.ledger import COLUMNS
from lrp_tf.ray import session

PATIENCE = 240  # seconds, for a machine with other work

# What the workers of a cluster import: pictures of more than 90 rows wait for a file.
HELD = """
import os, sys, time
from pathlib import Path
from lrp_tf.files import images

_read = images.read

def held(path, max_pixels):
    pixels = _read(path, max_pixels)
    while len(pixels) > 90 and not (Path(os.environ["HELD"]) / "open").exists():
        time.sleep(0.1)
    return pixels

if "default_worker" in sys.argv[0]:  # Ray's own program, and not the driver
    images.read = held
"""


# --- clusters that cannot be joined ------------------------------------------------------------


class RayError(Exception):
    """As Ray's."""


def refusing(error):
    def init(address, **more):
        raise error

    return SimpleNamespace(init=init, exceptions=SimpleNamespace(RayError=RayError))


def test_a_cluster_that_wants_a_token_says_so():
    """Ray says that it failed to connect, and why in the cause alone; or raises an error of its own kind."""
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = RuntimeError("RPC error: InvalidAuthToken: Authentication token is missing or incorrect.")
    for refused in (error, RayError("Token authentication is enabled but no authentication token was found")):
        with pytest.raises(LoadError, match=r"joined at 10\.0\.0\.1:6379: it asks for a token.*RAY_AUTH_MODE=token"):
            session._start(refusing(refused), "10.0.0.1:6379", 2)


def test_a_cluster_that_does_not_answer_is_named_with_what_ray_says():
    for refused in (ConnectionError("no\n  route"), RayError("no route")):
        with pytest.raises(LoadError, match=r"joined at auto: no route\. Expected the address.*`address`"):
            session._start(refusing(refused), "auto", 2)
    with pytest.raises(LoadError, match="Ray cannot be started: no route"):
        session._start(refusing(OSError("no route")), None, 2)


# --- a cluster ---------------------------------------------------------------------------------


def below(pid):
    """Titles of the processes that a process started, and of those that these started, by number."""
    known = {}
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if place.name.isdigit():
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                known[int(place.name)] = (parent, (place / "cmdline").read_bytes().rstrip(b"\0").decode())
    found = {}
    for child, (parent, title) in known.items():
        while parent in known and parent != pid:
            parent = known[parent][0]
        if parent == pid:
            found[child] = title
    return found


def until(condition, why):
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, why
        time.sleep(0.1)


def at_work(cluster):
    """The actors of lrp_tf in a cluster: workers, and who counts attempts."""
    titles = below(cluster.pid).items()
    return {pid for pid, title in titles if title.startswith(("ray::MapWorker", "ray::Attempts"))}


@contextlib.contextmanager
def started(log):
    """A cluster of two CPUs as `ray start` begins one; what it started has ended afterwards.

    Yields:
        Its process, and its address.
    """
    with contextlib.ExitStack() as ports:
        sockets = [ports.enter_context(contextlib.closing(socket.socket())) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        port, other = (one.getsockname()[1] for one in sockets)
    words = ["start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={other}", "--num-cpus=2"]
    words += ["--include-dashboard=false", "--object-store-memory=200000000", "--disable-usage-stats"]
    with open(log, "wb") as file:
        head = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", *words], stdout=file, stderr=file)
    try:
        until(lambda: head.poll() is not None or b"runtime started" in log.read_bytes(), "no cluster begins")
        assert head.poll() is None, log.read_text()
        yield head, f"127.0.0.1:{port}"
    finally:
        left = below(head.pid)
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        for pid in {head.pid, *(set(left) & alive(left))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()


def alive(titles):
    """Those of some processes that are still what they were."""
    found = set()
    for pid, title in titles.items():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode() == title:
                found.add(pid)
    return found


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a model, photographs of which the last ones are held, and what the cluster's workers import."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("/proc tells which processes a cluster has")
    need("ray", "pyarrow", extra="ray")
    classifier().save(tmp_path / "m.keras")
    photos(tmp_path / "photos", 20)
    from helpers.pictures import photo
    from PIL import Image

    for i in range(20, 24):
        Image.fromarray(photo(i, height=96)).save(tmp_path / "photos" / f"x{i}.png")
    photos(tmp_path / "few", 5)
    (tmp_path / "held.py").write_text(HELD)
    paths = [str(REPOSITORY), str(tmp_path), str(REPOSITORY / "tests")]
    for name, value in {
        "PYTHONPATH": os.pathsep.join(paths),
        "HELD": str(tmp_path),
        "RAY_AUTH_MODE": "disabled",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def close(one, other):
    """Two tables hold the same rows, in any order."""
    one, other = ({row["result"]: row for row in table(out / "results.csv")} for out in (one, other))
    assert one.keys() == other.keys()
    for result, row in one.items():
        for name in COLUMNS[2:]:
            a, b = row[name], other[result][name]
            assert a == b or abs(float(a) - float(b)) <= 1e-5 * max(abs(float(row["start"])), 1e-3), (result, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Ray leaves sockets to the collector
def test_two_drivers_share_a_cluster_and_one_is_killed(home, monkeypatch):
    """Each has the rows of the command; their processes end with them, by kill -9 too, and the cluster lives on."""

    def words(out, images, *more):
        options = ["--preprocess", "none", "--composite", "epsilon_plus", "--out", str(home / out), "--import", "held"]
        return ["explain", str(home / "m.keras"), *options, *more, str(home / images)]

    for name in ("photos", "few"):
        assert cli.main(words(f"plain-{name}", name)) == 0
    with started(home / "cluster.log") as (cluster, address):
        monkeypatch.setenv("RAY_ADDRESS", address)  # which is what "auto" means then, whatever else runs here
        first = words("first", "photos", "--ray", "auto", "--workers", "1")
        driver = subprocess.Popen([sys.executable, "-m", "lrp_tf", *first], stdout=subprocess.DEVNULL)
        try:
            until(lambda: driver.poll() is not None or len(rows(home / "first")) >= 8, "no rows")
            assert driver.poll() is None
            its = at_work(cluster)
            assert len(its) == 2

            run(words("second", "few", "--ray", address, "--workers", "1"))
            close(home / "second", home / "plain-few")
            until(lambda: at_work(cluster) <= its, "processes of the second driver live on")
            assert at_work(cluster) == its, "the second run ended processes of the first"
            assert driver.poll() is None
        finally:
            driver.kill()
            driver.wait()
        until(lambda: not at_work(cluster), "processes of the killed driver live on")
        before = len(rows(home / "first"))
        assert 8 <= before < 24

        (home / "open").touch()
        said = run([*first, "--resume"])
        assert f"{24 - before} explained" in said
        assert f"{before} finished before" in said
        close(home / "first", home / "plain-photos")
        assert len(list((home / "first").glob("*.png"))) == 24
        assert len(rows(home / "first")) == 24
        until(lambda: not at_work(cluster), "processes of a finished run live on")
        assert cluster.poll() is None
        assert sum("raylet" in title.split(" ")[0] or "/raylet" in title for title in below(cluster.pid).values()) >= 1


def run(words):
    """What the command prints. In a process of its own: Ray Data remembers the session that a process had before."""
    done = subprocess.run([sys.executable, "-m", "lrp_tf", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(out):
    """Those that are there already."""
    try:
        return table(out / "results.csv")
    except OSError:
        return []
