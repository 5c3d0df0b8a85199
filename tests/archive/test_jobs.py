"""Workers as jobs of a queue: the script that is submitted, and a real run of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiseg.archive.config import read_config
from wsiseg.archive.jobs import JobQueue, script
from wsiseg.errors import SettingsError

# a queue that keeps a copy of what it is given, and starts it at once, as a local process
SBATCH = """#!/bin/sh
cp "$1" "$(dirname "$0")/job.sh"
setsid sh "$(dirname "$0")/job.sh" >/dev/null 2>&1 &
echo $! >"$(dirname "$0")/id"
echo "Submitted batch job $!"
"""
SCANCEL = '#!/bin/sh\nkill -KILL -- "-$1"\n'


def test_the_script_has_what_was_asked_for_and_leaves_before_the_walltime(tmp_path: Path) -> None:
    jobs = JobQueue(
        kind="slurm",
        host="127.0.0.1",
        cores=4,
        memory="8GB",
        walltime="01:00:00",
        margin_s=300,
        queue="night",
        account="lab",
        resources="GPU=1",
        directives=("--gres=gpu:1",),
        prologue=("module load cuda",),
    )
    lines = script(jobs, tmp_path / "logs").splitlines()
    wanted = ("-p night", "-A lab", "--cpus-per-task=4", "-t 01:00:00", "--gres=gpu:1")
    assert {f"#SBATCH {line}" for line in wanted} <= set(lines)
    assert any(line.startswith(f"#SBATCH -o {tmp_path}/logs/") for line in lines)
    assert "module load cuda" in lines
    assert "export PYTHONSAFEPATH=1" in lines
    assert "tcp://127.0.0.1:" in lines[-1]
    # 55 minutes at the latest: 5 before the end
    assert "--lifetime 3000s --lifetime-stagger 300s" in lines[-1]
    assert "--resources GPU=1" in lines[-1]
    assert "--nthreads 4" in lines[-1]


def test_certificates_are_named_in_the_script_and_not_told(
    tmp_path: Path, certificates: Callable[[Path], dict[str, str]]
) -> None:
    files = certificates(tmp_path / "tls")
    text = script(JobQueue(kind="slurm", host="127.0.0.1"), tmp_path, files)
    assert f"--tls-key {files['key']}" in text
    assert "tls://127.0.0.1:" in text
    assert "PRIVATE KEY" not in text
    assert "BEGIN" not in text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('kind = "slurm"', "interface"),
        ('kind = "slum"\nhost = "h"', "must be one of slurm, pbs"),
        ('kind = "slurm"\nhost = "h"\nwalltime = "8h"', "HH:MM:SS"),
        ('kind = "slurm"\nhost = "h"\npartition = "x"', "partition is unknown"),
        (
            'kind = "slurm"\nhost = "h"\n[batch]\ntls = { ca = "a", cert = "b", key = "c" }',
            r"batch\.tls\.ca: there is no file",
        ),
        ('kind = "slurm"\nhost = "h"\n[batch]\nscheduler = "tcp://h:1"', "cannot both be"),
    ],
)
def test_what_cannot_be_is_named(table: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(f"[cluster]\n{table}\n")
    with pytest.raises(SettingsError, match=message):
        read_config(tmp_path / "job.toml")


@pytest.mark.timeout(200)
def test_a_batch_starts_its_jobs_uses_them_and_ends_them(
    small_slides: Path,
    tmp_path: Path,
    truth: Any,
    kit: Any,
    certificates: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = tmp_path / "bin"
    queue.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (queue / name).write_text(text)
        (queue / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{queue}{os.pathsep}{os.environ['PATH']}")
    source = Path(shutil.copytree(small_slides, tmp_path / "in"))
    (source / "case-0.tiff").unlink()
    config = tmp_path / "job.toml"
    config.write_text(
        '[cluster]\nkind = "slurm"\nhost = "127.0.0.1"\ncores = 2\nmemory = "6GB"\n'
        'walltime = "00:10:00"\n[batch]\nwhole_below = 0\n'
        'tls = { ca = "tls/ca.pem", cert = "tls/cert.pem", key = "tls/key.pem" }\n'
    )
    certificates(tmp_path / "tls")
    out = tmp_path / "out"
    done = kit.batch(source, out, "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scheduler tls://127.0.0.1" in done.stderr
    kit.all_as_undisturbed(out, truth)
    kit.until(lambda: not alive(int((queue / "id").read_text())), 30)
    assert {p.name for p in tmp_path.iterdir()} == {"bin", "in", "job.toml", "out", "tls"}


def alive(job: int) -> list[psutil.Process]:
    """What a job has started, and is still at work."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == job and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
