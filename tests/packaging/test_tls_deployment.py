"""The Kubernetes manifests for TLS: what they become, and that their probe works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.integration.cli.commands import clean_environment
from tests.packaging.conftest import ROOT, run
from tests.postgres import ClusterPool
from tests.servers import ServerProcess
from workerqueue_server.app.settings import PREFIX, Settings

_DEPLOY = ROOT / "deploy"
_PATCH = _DEPLOY / "kubernetes-tls" / "deployment.yaml"
# By what Kubernetes finds the entry of a list that a patch means.
_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}


def _patched(given: Any, patch: Any, name: str = "") -> Any:
    """A strategic merge, as far as the patch needs it."""
    if isinstance(patch, dict):
        result = dict(given or {})
        for key, value in patch.items():
            if value is None:
                del result[key]
            else:
                result[key] = _patched(result.get(key), value, key)
        return result
    if name in _KEYS:
        key = _KEYS[name]
        entries = {entry[key]: entry for entry in given}
        for change in patch:
            if change.get("$patch") == "delete":
                del entries[change[key]]
            else:
                entries[change[key]] = _patched(entries.get(change[key]), change)
        return list(entries.values())
    return patch


def _deployment() -> dict[str, Any]:
    plain = yaml.safe_load((_DEPLOY / "kubernetes" / "deployment.yaml").read_text())
    made: dict[str, Any] = _patched(plain, yaml.safe_load(_PATCH.read_text()))
    return made


def _container() -> dict[str, Any]:
    (container,) = _deployment()["spec"]["template"]["spec"]["containers"]
    made: dict[str, Any] = container
    return made


def test_the_patched_deployment_fits_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(yaml.safe_dump(_deployment()))
    tool = Path(sys.executable).with_name("kubernetes-validate")
    for version in ("1.30", "1.34"):
        run(tool, "--strict", "--kubernetes-version", version, file, cwd=ROOT)


def test_it_sets_what_exists_and_mounts_what_it_names() -> None:
    container = _container()
    names = {entry["name"] for entry in container["env"]}
    assert names <= {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert f"{PREFIX}ALLOW_INSECURE" not in names
    values = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for name in ("TLS_CERT", "TLS_KEY"):
        assert str(Path(values[f"{PREFIX}{name}"]).parent) in mounts
    for probe in ("readinessProbe", "startupProbe"):
        # What a probe's command may take at most, with room for its start.
        assert set(container[probe]) & {"grpc", "exec"} == {"exec"}
        assert container[probe]["timeoutSeconds"] > 5


def test_the_probe_tells_whether_the_server_serves(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    issued = authority.issue_cert("workerqueue")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    clusters = ClusterPool()
    try:
        database = clusters.get(18).create_database()
        server = _Probed(database.dsn, tmp_path)
        with server:
            assert server.probe() == 0
        assert server.probe() == 3
    finally:
        clusters.destroy()


class _Probed(ServerProcess):
    """A server with the files of the manifests' secret, asked for its health by their command."""

    def __init__(self, dsn: str, files: Path) -> None:
        self._files = files
        certificate = ("--tls-cert", str(files / "tls.crt"), "--tls-key", str(files / "tls.key"))
        super().__init__(dsn, arguments=[*certificate, "--auth", "tokens"])

    def is_serving(self) -> bool:
        return self.probe() == 0

    def probe(self) -> int:
        program, *arguments = _container()["readinessProbe"]["exec"]["command"]
        told = [
            argument.replace("127.0.0.1:50551", self.address).replace("/tls", str(self._files))
            for argument in arguments
        ]
        return subprocess.run(
            [Path(sys.executable).with_name(program), *told],
            env=clean_environment(),
            capture_output=True,
            check=False,
        ).returncode
