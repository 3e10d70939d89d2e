"""Kinds read from descriptor sets: their policies, keys and rules, and what is wrong with a set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.descriptors import compile_protos
from workerqueue_server.queue.catalog import Catalog, CatalogError
from workerqueue_server.queue.errors import InvalidTask, UnknownKind

HEAD = """
syntax = "proto3";
package acme.jobs.v1;
import "workerqueue/v1/policy.proto";
import "buf/validate/validate.proto";
"""

Load = Callable[..., Catalog]


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., bytes]:
    """Compiles the body of a proto file to a descriptor set."""

    def compile_one(body: str, name: str = "acme/jobs/v1/jobs.proto", head: str = HEAD) -> bytes:
        source = tmp_path / name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(head + body)
        output = tmp_path / "set.binpb"
        compile_protos([source], [tmp_path], output)
        return output.read_bytes()

    return compile_one


@pytest.fixture
def load(compiled: Callable[..., bytes]) -> Load:
    """The catalog with the kinds of a proto file's body."""

    def load_one(body: str, **names: str) -> Catalog:
        return Catalog.load({"jobs.binpb": compiled(body, **names)})

    return load_one


def kind_of(catalog: Catalog, name: str) -> Any:
    return catalog.by_name(name, "field")


class TestPolicies:
    def test_a_message_without_settings_gets_the_defaults(self, load: Load) -> None:
        catalog = load("message SendReport { option (workerqueue.v1.task) = {}; string id = 1; }")
        kind = kind_of(catalog, "sendReport")
        assert kind.type_name == "acme.jobs.v1.SendReport"
        assert kind.type_url == "type.googleapis.com/acme.jobs.v1.SendReport"
        policy = kind.policy
        assert (policy.queue, policy.priority, policy.max_attempts) == ("default", 0, 3)
        assert (policy.timeout_ms, policy.lease_duration_ms) == (60_000, 30_000)
        assert (policy.concurrency_key, policy.concurrency_limit) == ("", 1)
        assert policy.retry is None
        assert policy.retention is None

    def test_every_setting_is_read(self, load: Load) -> None:
        catalog = load(
            """
            message M {
              option (workerqueue.v1.task) = {
                kind: "reports.send" queue: "reports" priority: -5 max_attempts: 9
                timeout: {seconds: 1 nanos: 500000000} lease_duration: {seconds: 7}
                concurrency_key: "r-{id}" concurrency_limit: 4
                retry: {initial_backoff: {seconds: 2} multiplier: 3 max_backoff: {seconds: 60}}
                retention: {succeeded: {seconds: 60} dead: {}}
              };
              string id = 1;
            }"""
        )
        policy = kind_of(catalog, "reports.send").policy
        assert (policy.queue, policy.priority, policy.max_attempts) == ("reports", -5, 9)
        assert (policy.timeout_ms, policy.lease_duration_ms) == (1_500, 7_000)
        assert (policy.concurrency_key, policy.concurrency_limit) == ("r-{id}", 4)
        assert policy.retry == (2_000.0, 3.0, 60_000.0, 0.1)
        assert policy.retention == (60, None, None, 0)

    def test_messages_without_the_option_are_no_kinds_and_nested_ones_may_be(
        self, load: Load
    ) -> None:
        catalog = load(
            """
            message Plain { string id = 1; }
            message Outer { message Inner { option (workerqueue.v1.task) = {}; } }"""
        )
        assert "plain" not in catalog.kinds
        assert "outer" not in catalog.kinds
        assert kind_of(catalog, "inner").type_name == "acme.jobs.v1.Outer.Inner"

    @pytest.mark.parametrize(
        ("setting", "complaint"),
        [
            ('queue: "no spaces"', "queue"),
            ("priority: 1001", "priority"),
            ("max_attempts: -1", "max_attempts"),
            ("timeout: {nanos: 1000}", "timeout"),
            ("lease_duration: {seconds: 4000}", "lease_duration"),
            ("concurrency_limit: 1001", "concurrency_limit"),
            ("retry: {multiplier: 0.5}", "retry.multiplier"),
            ("retry: {jitter: nan}", "retry.jitter"),
            ("retention: {dead: {seconds: 9999999}}", "retention.dead"),
            ('concurrency_key: "{nothing}"', "concurrency_key"),
            ('kind: "a\\nb"', "kind name"),
        ],
    )
    def test_a_setting_out_of_bounds_stops_the_start_and_is_named(
        self, load: Load, setting: str, complaint: str
    ) -> None:
        with pytest.raises(CatalogError, match=complaint) as caught:
            load(f"message M {{ option (workerqueue.v1.task) = {{{setting}}}; string id = 1; }}")
        assert "acme.jobs.v1.M" in str(caught.value)

    def test_one_name_for_two_kinds_stops_the_start(self, load: Load) -> None:
        with pytest.raises(CatalogError, match=r"startRun.*claimed by both.*acme.jobs.v1.StartRun"):
            load("message StartRun { option (workerqueue.v1.task) = {}; }")

    def test_declared_queues_are_read_and_may_not_contradict_each_other(self, load: Load) -> None:
        catalog = load(
            'option (workerqueue.v1.queues) = {name: "reports" max_in_flight_per_worker: 2'
            " max_in_flight: 9};"
        )
        queue = catalog.queues["reports"]
        assert (queue.max_in_flight_per_worker, queue.max_in_flight) == (2, 9)
        with pytest.raises(CatalogError, match="executions"):
            load('option (workerqueue.v1.queues) = {name: "executions" max_in_flight: 1};')
        with pytest.raises(CatalogError, match="negative"):
            load('option (workerqueue.v1.queues) = {name: "x" max_in_flight: -1};')


class TestKeys:
    BODY = """
        enum Size {{ SIZE_UNSPECIFIED = 0; SIZE_LARGE = 2; }}
        message Owner {{ string name = 1; }}
        message M {{
          option (workerqueue.v1.task) = {{concurrency_key: "{template}"}};
          string id = 1; int64 number = 2; bool urgent = 3; Size size = 4; Owner the_owner = 5;
          repeated string many = 6; bytes raw = 7; double share = 8; map<string, string> map = 9;
        }}"""

    @pytest.mark.parametrize(
        ("template", "key"),
        [
            ("runs-{id}", "runs-a/b"),
            ("{id}", "a/b"),
            ("{id}-{number}-{urgent}-{size}", "a/b--7-true-2"),
            ("{the_owner.name}!", "ada!"),
            ("{theOwner.name}", "ada"),
        ],
    )
    def test_a_template_is_filled_from_the_payload(
        self, load: Load, template: str, key: str
    ) -> None:
        kind = kind_of(load(self.BODY.format(template=template)), "m")
        payload = kind.message_class(id="a/b", number=-7, urgent=True, size=2)
        payload.the_owner.name = "ada"
        assert kind.concurrency_key.render(payload) == key

    @pytest.mark.parametrize(
        "template",
        [
            *("constant", "{unknown}", "{id", "id}", "{}", "{id.name}", "{the_owner}"),
            *("{many}", "{raw}", "{share}", "{map}", "{the_owner.unknown}", "{a b}"),
        ],
    )
    def test_a_template_that_does_not_fit_stops_the_start(self, load: Load, template: str) -> None:
        with pytest.raises(CatalogError, match=r"concurrency_key of acme\.jobs\.v1\.M"):
            load(self.BODY.format(template=template))


class TestPayloads:
    BODY = """
        message M {
          option (workerqueue.v1.task) = {};
          string id = 1 [(buf.validate.field).string.min_len = 1];
          repeated Item items = 2 [(buf.validate.field).repeated.max_items = 2];
        }
        message Item { int32 count = 1 [(buf.validate.field).int32.gt = 0]; }"""

    def test_every_broken_rule_is_told_with_its_path(self, load: Load) -> None:
        catalog = load(self.BODY)
        kind = kind_of(catalog, "m")
        with pytest.raises(InvalidTask) as caught:
            catalog.parse_json(kind, {"items": [{"count": 1}, {"count": 0}]}, "dynamic.args")
        assert {violation.field for violation in caught.value.violations} == {
            "dynamic.args.id",
            "dynamic.args.items[1].count",
        }
        assert caught.value.reason == "INVALID_PAYLOAD"

    def test_bytes_and_json_give_the_same_message(self, load: Load) -> None:
        catalog = load(self.BODY)
        kind = kind_of(catalog, "m")
        from_json = catalog.parse_json(kind, {"id": "x", "items": [{"count": 3}]}, "f")
        assert catalog.parse(kind, from_json.SerializeToString(), "f") == from_json

    @pytest.mark.parametrize("args", [{"id": 5}, {"nothing": 1}, {"items": "x"}, {"items": [1]}])
    def test_json_of_the_wrong_shape_is_refused(self, load: Load, args: dict[str, Any]) -> None:
        catalog = load(self.BODY)
        with pytest.raises(InvalidTask):
            catalog.parse_json(kind_of(catalog, "m"), args, "f")

    def test_unknown_names_and_types_are_refused_with_the_nearest(self, load: Load) -> None:
        catalog = load("message SendReport { option (workerqueue.v1.task) = {}; }")
        with pytest.raises(UnknownKind, match="sendReport"):
            catalog.by_name("sendreprot", "f")
        with pytest.raises(UnknownKind, match=r"acme\.jobs\.v1\.SendReport"):
            catalog.by_type_url("type.googleapis.com/acme.jobs.v1.SendReports", "f")
        with pytest.raises(UnknownKind) as caught:
            catalog.by_name("x" * 50, "f")
        assert "did you mean" not in caught.value.message

    def test_rules_that_do_not_compile_stop_the_start(self, load: Load) -> None:
        with pytest.raises(CatalogError, match=r"validation rules of acme\.jobs\.v1\.M"):
            load(
                """
                message M {
                  option (workerqueue.v1.task) = {};
                  option (buf.validate.message).cel = {id: "x" expression: "this.nothing > 1"};
                }"""
            )


class TestDescriptorSets:
    def test_rubbish_and_emptiness_are_refused_with_advice(self) -> None:
        with pytest.raises(CatalogError, match="buf build"):
            Catalog.load({"jobs.binpb": b"\xff\xff\xff"})
        with pytest.raises(CatalogError, match="no files"):
            Catalog.load({"jobs.binpb": b""})

    def test_a_set_without_its_imports_is_refused_with_what_is_missing(
        self, compiled: Callable[..., bytes]
    ) -> None:
        files = FileDescriptorSet(
            file=[
                FileDescriptorProto(
                    name="acme/a.proto", package="acme", dependency=["acme/missing.proto"]
                )
            ]
        )
        with pytest.raises(CatalogError, match=r"acme/missing\.proto.*include_imports"):
            Catalog.load({"jobs.binpb": files.SerializeToString()})

    def test_the_order_of_files_does_not_matter(self, compiled: Callable[..., bytes]) -> None:
        data = compiled("message M { option (workerqueue.v1.task) = {}; }")
        files = list(FileDescriptorSet.FromString(data).file)
        backwards = FileDescriptorSet(file=reversed(files)).SerializeToString()
        assert "m" in Catalog.load({"jobs.binpb": backwards}).kinds

    def test_the_same_file_twice_is_fine_and_another_of_its_name_is_not(
        self, compiled: Callable[..., bytes]
    ) -> None:
        first = compiled("message M { option (workerqueue.v1.task) = {}; }")
        assert "m" in Catalog.load({"a": first, "b": first}).kinds
        second = compiled("message N { option (workerqueue.v1.task) = {}; }")
        with pytest.raises(CatalogError, match=r"b: acme/jobs/v1/jobs\.proto differs"):
            Catalog.load({"a": first, "b": second})

    def test_the_contracts_own_files_may_be_of_another_release(
        self, compiled: Callable[..., bytes]
    ) -> None:
        files = FileDescriptorSet.FromString(
            compiled("message M { option (workerqueue.v1.task) = {}; }")
        )
        own = next(file for file in files.file if file.name == "workerqueue/v1/policy.proto")
        own.message_type.add(name="Future")
        assert "m" in Catalog.load({"a": files.SerializeToString()}).kinds

    def test_one_message_in_two_files_is_refused(self, compiled: Callable[..., bytes]) -> None:
        first = compiled("message M { option (workerqueue.v1.task) = {}; }", name="a.proto")
        second = compiled("message M { option (workerqueue.v1.task) = {}; }", name="b.proto")
        with pytest.raises(CatalogError, match=r"b\.proto contradicts"):
            Catalog.load({"a": first, "b": second})

    def test_the_built_in_catalog_stands_beside_the_users(self, load: Load) -> None:
        catalog = load("message M { option (workerqueue.v1.task) = {}; }")
        assert len(catalog.kinds) == 25
        assert catalog.by_name("startRun", "f").policy.max_attempts == 13
