"""What every test may use: the real data, and a line that says where it is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from wsiseg.cores import cores

# compiling a kernel in the first example must not count as a slow one; CI repeats its examples
settings.register_profile("wsiseg", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("wsiseg")

# What is not about the models is tested with the one that needs no network, which is fast. Tests of
# the shipped weights ask for them: ``shipped_weights``.
os.environ["WSISEG_OPEN_ONLY"] = "1"

DATA = Path(os.environ.get("WSISEG_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: a process per core that may be used, and no more than are of use."""
    return min(4, cores())


def pytest_report_header() -> str:
    state = "found" if DATA.is_dir() else "ABSENT: real-data tests are skipped (set WSISEG_DATA)"
    return f"wsiseg data: {state}"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides and labelled images."""
    if not DATA.is_dir():
        pytest.skip("the shared data folder is absent: set WSISEG_DATA")
    return DATA


@pytest.fixture(scope="session")
def slides(data: Path) -> Path:
    return data / "slides"


@pytest.fixture
def shipped_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test use all models of the package, as users do."""
    monkeypatch.delenv("WSISEG_OPEN_ONLY")


@pytest.fixture
def here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``here("info", slide, cwd=...)``: the command line, but in this process.

    What a process of its own adds (a second to start, signals, what libraries print) is tested
    where it matters.
    """
    from wsiseg.cli import main

    def call(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        former = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["wsiseg", *map(str, words)])
            patch.chdir(cwd or Path.cwd())
            with pytest.raises(SystemExit) as ended:
                main()
        signal.signal(signal.SIGTERM, former)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB; where mounting is not permitted, skips and says so."""
    mount = tmp_path / "disk"
    mount.mkdir()

    def make(kib: int) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(mount)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        return mount

    yield make
    if mount.is_mount():
        subprocess.run(["umount", "-l", str(mount)], check=True)


class DaskCluster:
    """A scheduler and workers, each a process that a test may kill, on loopback."""

    def __init__(self, *options: str, protocol: str = "tcp") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._options = options
        self.address = f"{protocol}://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._dask(
            *("scheduler", "--port", str(self.port), "--no-dashboard"),
            *("--idle-timeout", "600"),  # also where the tests themselves are killed
        )

    def worker(self, *options: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker; by default of one thread, and none takes its place when it dies."""
        how = ("--nworkers", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "60", *options)
        how += () if "--nthreads" in options else ("--nthreads", "1")
        self.workers.append(self._dask("worker", self.address, *how, **env))
        return self.workers[-1]

    def _dask(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        call = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", *self._options]
        env = os.environ | env
        paths = [*filter(None, [env.get("PYTHONPATH")]), str(Path(__file__).parents[1])]
        env |= {"PYTHONPATH": os.pathsep.join(paths)}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(call, env=env, **quiet)

    def close(self) -> None:
        """Kill all."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def new_dask_cluster() -> Iterator[Callable[..., DaskCluster]]:
    """Starts a scheduler, without workers yet; see ``DaskCluster``."""
    made: list[DaskCluster] = []

    def start(*options: str, **how: str) -> DaskCluster:
        made.append(DaskCluster(*options, **how))
        return made[-1]

    yield start
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="module")
def dask_cluster(new_dask_cluster: Callable[..., DaskCluster]) -> DaskCluster:
    """One for all tests of a module."""
    return new_dask_cluster()


@pytest.fixture
def certificates() -> Callable[[Path], dict[str, str]]:
    """Writes files of a certificate for this machine by a new authority: ca, cert and key."""
    import trustme

    def write(folder: Path) -> dict[str, str]:
        folder.mkdir()
        files = {part: str(folder / f"{part}.pem") for part in ("ca", "cert", "key")}
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(files["ca"])
        issued.cert_chain_pems[0].write_to_path(files["cert"])
        issued.private_key_pem.write_to_path(files["key"])
        return files

    return write


class Bucket:
    """A server of S3 in this process, which tells of requests, and can be gone.

    The archive in it is at ``s3://archives/night/one``.
    """

    SECRET = "planted-secret-key"

    def __init__(self) -> None:
        import boto3
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.before: Callable[[str, str], None] = lambda method, path: None
        """Told of every request before it is served."""
        self.answer: tuple[str, bytes] | None = None
        """What every request gets instead."""
        self.appear()
        self.client = boto3.client("s3", endpoint_url=self.url)
        self.client.create_bucket(Bucket="archives")

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        self.before(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if self.answer is not None:
            start(self.answer[0], [("Content-Type", "application/xml")])
            return [self.answer[1]]
        return self._app(environ, start)

    def appear(self) -> None:
        """Serve, at the port of before."""
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self._server = make_server(
            "127.0.0.1", self._port, self, threaded=True, request_handler=Silent
        )
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def vanish(self) -> None:
        """Refuse connections; what is stored stays."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where processes find it."""
        return f"http://127.0.0.1:{self._port}"

    def names(self) -> list[str]:
        """Objects of the archive, relative to its URL."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="archives")
        keys = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
        return sorted(key.removeprefix("night/one/") for key in keys)

    def get(self, name: str) -> bytes:
        """The content of an object of the archive."""
        found = self.client.get_object(Bucket="archives", Key=f"night/one/{name}")
        return bytes(found["Body"].read())

    def put(self, name: str, data: bytes) -> None:
        """Damage an object."""
        self.client.put_object(Bucket="archives", Key=f"night/one/{name}", Body=data)

    def digests(self, slide_id: str) -> dict[str, str]:
        """Hashes of the files of cells of a slide."""
        names = ("cells.parquet", "cells.geojson.gz")
        return {n: sha256(self.get(f"slides/{slide_id}/{n}")).hexdigest() for n in names}

    def status(self) -> dict[str, dict[str, Any]]:
        """Slide id -> its entry in status.json."""
        found = json.loads(self.get("status.json"))
        return {slide["slide_id"]: slide for slide in found["slides"]}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """See ``Bucket``; processes of the test find it, and keep nothing outside ``tmp_path``."""
    pytest.importorskip("s3fs")
    backends = pytest.importorskip("moto.backends")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", Bucket.SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    from wsiseg.storage.remote import _filesystem

    made = Bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    _filesystem.cache_clear()  # of an earlier server
    yield made
    made.vanish()
    backends.get_backend("s3").reset()


@pytest.fixture
def group_of() -> Iterator[Callable[[int], Callable[[], None]]]:
    """Makes a control group of so many bytes of memory; what it gives moves its caller there.

    Where that is not permitted, skips and says so.
    """
    made: list[Path] = []

    def make(limit: int) -> Callable[[], None]:
        for top, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
            group = Path("/sys/fs/cgroup", top, f"wsiseg-test-{os.getpid()}")
            try:
                group.mkdir()
                made.append(group)
                (group / name).write_text(str(limit))
            except OSError:
                continue
            return lambda group=group: (group / "cgroup.procs").write_text(str(os.getpid()))
        pytest.skip("no control group can be made here")

    yield make
    for group in made:
        group.rmdir()
