"""The Kubernetes manifests of the docs: checked against schemas, in themselves, and their commands run under stand-ins.

Kubernetes and KubeRay were not there. `schemas/README.md` says where the schemas are from.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

import beholder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.ray_engine import resources_of
from beholder.scoring.score import score
from oracles.program import beholder as program
from oracles.result_bytes import check_same

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = {name: REPOSITORY / "docs" / "kubernetes" / name for name in ("rayjob.yaml", "job.yaml")}
SCHEMAS = Path(__file__).parent / "schemas"
DEFINITIONS = {
    name: definition
    for path in sorted(SCHEMAS.glob("*.json"))
    for name, definition in json.loads(path.read_text(encoding="utf-8"))["$defs"].items()
}


def documents(name: str) -> dict[str, Any]:
    """The documents of a manifest by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(FILES[name].read_text(encoding="utf-8"))}


def mistakes(document: dict[str, Any]) -> list[str]:
    """What the schema of its kind says of a document: where, and what."""
    schema = {"$ref": f"#/$defs/{document['kind']}", "$defs": DEFINITIONS}
    return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document)]


def pod_specs() -> Iterator[dict[str, Any]]:
    cluster = documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]
    yield documents("job.yaml")["Job"]["spec"]["template"]["spec"]


def test_schemas_are_schemas_without_gaps() -> None:
    jsonschema.Draft202012Validator.check_schema({"$defs": DEFINITIONS})
    named = re.findall(r'"\$ref": ?"#/\$defs/([^"]+)"', json.dumps(DEFINITIONS))
    assert set(named) <= set(DEFINITIONS)
    loose = [name for name, one in DEFINITIONS.items() if "properties" in one and one["additionalProperties"] is not False]
    assert not loose


@pytest.mark.parametrize("name", FILES)
def test_every_document_fits_its_schema(name: str) -> None:
    found = documents(name)
    assert list(found) == {"rayjob.yaml": ["ConfigMap", "PersistentVolumeClaim", "RayJob"], "job.yaml": ["Job"]}[name]
    for document in found.values():
        assert not mistakes(document)


HEAD = "rayClusterSpec.headGroupSpec"
WORKERS = "rayClusterSpec.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("name", "kind", "place", "value", "what"),
    [
        ("rayjob.yaml", "RayJob", "shutdownAfterJobFinish", True, "'shutdownAfterJobFinish' was unexpected"),
        ("rayjob.yaml", "RayJob", "backoffLimit", "3", "'3' is not of type 'integer'"),
        ("rayjob.yaml", "RayJob", "submissionMode", "K8sMode", "'K8sMode' is not one of"),
        ("rayjob.yaml", "RayJob", "rayClusterSpec.headGroup", {}, "'headGroup' was unexpected"),
        ("rayjob.yaml", "RayJob", f"{HEAD}.rayStartParams.num-cpus", 0, "0 is not of type 'string'"),
        ("rayjob.yaml", "RayJob", f"{HEAD}.template.spec.containers.0.images", "x", "'images' was unexpected"),
        ("rayjob.yaml", "RayJob", f"{WORKERS}.maxReplicas", None, "None is not of type 'integer'"),
        ("rayjob.yaml", "RayJob", f"{WORKERS}.minReplica", 4, "'minReplica' was unexpected"),
        ("rayjob.yaml", "RayJob", f"{WORKERS}.template.spec.containers.0.resources.limit", {}, "'limit' was unexpected"),
        ("rayjob.yaml", "RayJob", f"{WORKERS}.template.spec.toleration", [], "'toleration' was unexpected"),
        ("rayjob.yaml", "PersistentVolumeClaim", "accessMode", [], "'accessMode' was unexpected"),
        ("job.yaml", "Job", "completion", 64, "'completion' was unexpected"),
        ("job.yaml", "Job", "parallelism", "16", "'16' is not of type"),
        ("job.yaml", "Job", "template.spec.containers.0.command", "beholder", "'beholder' is not of type"),
        ("job.yaml", "Job", "template.spec.containers.0.volumeMounts.0.mountpath", "/", "'mountpath' was unexpected"),
    ],
)
def test_a_mistake_is_found(name: str, kind: str, place: str, value: object, what: str) -> None:
    document = copy.deepcopy(documents(name)[kind])
    *way, last = place.split(".")
    at = document["spec"]
    for step in way:
        at = at[int(step)] if step.isdecimal() else at[step]
    at[last] = value
    found = mistakes(document)
    assert len(found) == 1
    assert what in found[0]


def test_what_is_required_is_missed() -> None:
    document = documents("rayjob.yaml")["RayJob"]
    del document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    del document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]
    assert sorted(mistakes(document)) == [
        "$.spec.rayClusterSpec.headGroupSpec: 'template' is a required property",
        "$.spec.rayClusterSpec.workerGroupSpecs[0]: 'groupName' is a required property",
    ]


def test_pods_have_the_program_and_what_they_mount() -> None:
    """Volumes, claims and config maps that are named are there; /data is in every pod; one image, of this version."""
    claim = documents("rayjob.yaml")["PersistentVolumeClaim"]["metadata"]["name"]
    config = documents("rayjob.yaml")["ConfigMap"]["metadata"]["name"]
    images = set()
    for spec in pod_specs():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (container,) = spec["containers"]
        images.add(container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim
        assert "script" not in volumes or volumes["script"]["configMap"]["name"] == config
        assert container["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert len(images) == 1
    assert images.pop().rpartition(":")[2] == beholder.__version__
    pinned = re.search(r"^ray==(.*)$", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    assert documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def script_of_the_ray_job() -> str:
    """What the entrypoint runs, found through the head's mounts as it would be there."""
    found = documents("rayjob.yaml")
    spec = found["RayJob"]["spec"]
    mounts = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    folder = next(mount["mountPath"] for mount in mounts if mount["name"] == "script")
    shell, path = shlex.split(spec["entrypoint"])
    assert shell == "bash"
    assert Path(path).parent == Path(folder)
    script: str = found["ConfigMap"]["data"][Path(path).name]
    return script


def test_actors_have_room_on_the_workers_and_none_on_the_head() -> None:
    words = shlex.split(script_of_the_ray_job(), comments=True)
    wanted = resources_of(words[words.index("--actor-resources") + 1])
    cluster = documents("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    has = {"num_cpus": float(limits["cpu"]), "num_gpus": float(limits["nvidia.com/gpu"])}
    assert wanted == has  # an actor a pod
    assert int(words[words.index("--actors") + 1]) == group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3, 0), (1, 1), (2, 2), (137, 137)])
def test_only_rejects_do_not_fail_the_ray_job(status: int, expected: int, tmp_path: Path) -> None:
    """Under a stand-in for the program that ends as it is told; 137 is a kill."""
    stand_in = tmp_path / "beholder"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@"\nexit {status}\n')
    stand_in.chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SOURCES": "/data/some shards", "OUT": "/data/scores"}
    done = subprocess.run(["bash", "-c", script_of_the_ray_job()], env=settings, capture_output=True, text=True)
    assert (done.returncode == 0) == (expected == 0)
    assert done.stdout.splitlines()[:4] == ["score", "/data/some shards", "-o", "/data/scores"]


def test_the_program_takes_the_options_of_the_ray_job(tmp_path: Path) -> None:
    """It gets as far as to the cluster, which is not there."""
    line = next(line for line in script_of_the_ray_job().splitlines() if line.startswith("beholder "))
    words = shlex.split(
        line.partition("||")[0].replace("$SOURCES", str(tmp_path / "none")).replace("$OUT", str(tmp_path / "o"))
    )
    done = program(*words[1:], "--address", "127.0.0.1:9")
    assert done.returncode == 1
    assert "no cluster at 127.0.0.1:9" in done.stderr


@pytest.mark.slow
def test_the_parts_of_the_indexed_job_come_to_the_whole(tmp_path: Path, plain_head: Path) -> None:
    """Three pods, each with its index and the container's variables, do what one run does."""
    (tmp_path / "rows").mkdir()
    for number in range(5):
        np.save(tmp_path / "rows" / f"e{number}.npy", np.random.default_rng(number).standard_normal((20, 24), np.float32))
    spec = documents("job.yaml")["Job"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    settings = {one["name"]: one["value"] for one in container["env"]}
    assert int(settings["PARTS"]) == spec["completions"]
    given = f"-m beholder score --head {shlex.quote(str(plain_head))} --shard-rows 10"
    command = [word.replace("beholder score", f"{sys.executable} {given}") for word in container["command"]]
    own = {"SOURCES": str(tmp_path / "rows"), "OUT": str(tmp_path / "scores"), "PARTS": "3"}
    for index in (1, 2, 0):
        environment = {**os.environ, **settings, **own, "JOB_COMPLETION_INDEX": str(index)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"part {index} of 3" in done.stdout
    options: dict[str, Any] = {"heads": (str(plain_head),), "shard_rows": 10, "num_threads": 1}
    score(ScoreOptions(sources=(own["SOURCES"],), out=str(tmp_path / "whole"), **options))
    summary = score(ScoreOptions(sources=(own["SOURCES"],), out=own["OUT"], **options))
    assert (summary.num_new, summary.num_read) == (0, 100)
    check_same(tmp_path / "whole", tmp_path / "scores")


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_the_files(name: str) -> None:
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    assert f"```yaml\n{FILES[name].read_text(encoding='utf-8')}```" in page
