"""doctor: what is broken is found, said with a remedy, and ends in status 1."""

from __future__ import annotations

import importlib
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from ltcache.errors import EncoderError
from ltcache.examine import doctor
from ltcache.examine.doctor import FAILED, NOTE, OK, DoctorFinding, examine
from tests.conftest import Call

Usage = namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found() -> dict[str, DoctorFinding]:
    return {finding.name: finding for finding in examine()}


def test_everything_is_looked_at_and_nothing_is_left_behind(tmp_path: Path, call: Call) -> None:
    status, printed, _ = call("doctor", "--json")
    findings = json.loads(printed)
    names = [finding["name"] for finding in findings]
    assert {"python", *doctor.LIBRARIES, "extras", "processors", "device"} <= set(names)
    assert names[-1] == "extraction" and findings[-1]["status"] == OK
    assert f"{doctor.SAMPLED} packaged images" in findings[-1]["detail"]
    assert status == 0 and all(finding["status"] != FAILED for finding in findings)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_does_not_import_is_named_and_the_rest_is_left(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def broken(name: str, *more: Any) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nand more")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", broken)
    status, printed, errors = call("doctor")
    assert status == 1 and "does not work here: torchvision" in errors
    assert (
        "failed  torchvision: RuntimeError: operator torchvision::nms does not exist\n" in printed
    )
    assert "-> " in printed and "--force-reinstall torch torchvision" in printed
    assert "extraction" not in printed and "ok      h5py" in printed


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def device() -> DoctorFinding:
        raise EncoderError("no usable GPU\nbut one is there")

    monkeypatch.setattr(doctor, "CHECKS", (device, doctor.shared_memory))
    findings = found()
    assert findings["device"] == DoctorFinding("device", FAILED, "EncoderError: no usable GPU")
    assert "shared memory" in findings


def test_more_threads_than_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(doctor, "usable_processors", lambda: 2)
    monkeypatch.setattr(doctor, "processor_quota", lambda: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    finding = doctor.processors()
    assert finding.status == NOTE and finding.remedy.endswith("set OMP_NUM_THREADS=2")
    assert "quota 1.5" in finding.detail and "64 threads" in finding.detail
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert doctor.processors().status == OK


def test_by_what_an_extraction_can_be_shared_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr(doctor, "usable_processors", lambda: 6)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/srun" if name == "srun" else None)
    for name, text in (("RANK", "2"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, text)
    assert doctor.several_processes() == DoctorFinding(
        "several processes",
        OK,
        "extract: --gpus all starts 4, --processes N up to 6, srun, --part I/N; retrieve-tail "
        "and verify: --part; this process is 3 of 8 of torchrun",
    )


@pytest.mark.parametrize(("free", "status"), [(64 << 20, NOTE), (8 << 30, OK)])
def test_little_shared_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(free, 0, free))
    finding = doctor.shared_memory()
    assert finding.status == status and ("--shm-size" in finding.remedy) == (status == NOTE)


def test_where_weights_are_downloaded_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "not" / "yet"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 64 << 30))
    finding = doctor.downloaded_weights()
    assert finding.status == OK and str(place) in finding.detail and not place.exists()
    monkeypatch.setattr("os.access", lambda *_: False)
    finding = doctor.downloaded_weights()
    assert finding.status == NOTE and f"{tmp_path} is not writable" in finding.detail
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 1 << 30))
    assert "HF_HOME" in doctor.downloaded_weights().remedy
