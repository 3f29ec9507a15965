"""What the protos say about HTTP: which method and path reach which RPC, and the descriptors that Envoy needs for it.

The one source of both is `trainplane.pb`, which `make gen` writes; no route is written down by hand anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

PUBLIC_PACKAGE = "trainplane.v1"
DESCRIPTOR_SET = Path(__file__).with_name("trainplane.pb")
# The types of error details. Nothing imports them, yet Envoy turns details into JSON only if it knows their types.
_ERROR_DETAILS = "google/rpc/error_details.proto"
_HTTP_BODY = ".google.api.HttpBody"
_METHODS = ("get", "put", "post", "delete", "patch")


class UnroutableRpcError(Exception):
    """An RPC's HTTP rule says something that the gateway does not render."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One HTTP method and path, and the RPC that it reaches.

    Attributes:
        method: in upper case.
        template: the path as the proto has it, e.g. `/train/{job_id}:watch`.
        rpc: `<service>/<method>`, e.g. `trainplane.v1.JobService/GetJob`.
        streams: the RPC answers a stream.
        has_body: the request's body becomes (a part of) the RPC's request.
        raw_body: that body reaches the RPC as bytes, unread (`google.api.HttpBody`).
        query_parameters: names that the query may set; never one that the path or the body sets.
    """

    method: str
    template: str
    rpc: str
    streams: bool
    has_body: bool
    raw_body: bool
    query_parameters: tuple[str, ...]


def public_descriptors(serialized: bytes) -> descriptor_pb2.FileDescriptorSet:
    """Keep of a descriptor set what the public services need, without comments and internal protos.

    Args:
        serialized: a serialized `google.protobuf.FileDescriptorSet` with all imports.

    Returns:
        Files in their order of import, each before those that import it.
    """
    whole = descriptor_pb2.FileDescriptorSet.FromString(serialized)
    by_name = {file.name: file for file in whole.file}
    wanted = {file.name for file in whole.file if file.package == PUBLIC_PACKAGE} | {_ERROR_DETAILS}
    unseen = list(wanted)
    while unseen:
        for dependency in by_name[unseen.pop()].dependency:
            if dependency not in wanted:
                wanted.add(dependency)
                unseen.append(dependency)
    kept = descriptor_pb2.FileDescriptorSet()
    for file in whole.file:
        if file.name in wanted:
            kept.file.add().CopyFrom(file)
            kept.file[-1].ClearField("source_code_info")
    return kept


def service_names(descriptors: descriptor_pb2.FileDescriptorSet) -> tuple[str, ...]:
    """Name the public services that have at least one HTTP rule, sorted."""
    return tuple(sorted({binding.rpc.split("/")[0] for binding in bindings(descriptors)}))


def bindings(descriptors: descriptor_pb2.FileDescriptorSet) -> tuple[Binding, ...]:
    """Read every HTTP rule of the public services, sorted by path and method.

    Raises:
        UnroutableRpcError: a rule uses what the gateway does not render (a custom method, a body that is one field,
            additional bindings).
    """
    messages = {
        f".{file.package}.{message.name}": message for file in descriptors.file for message in file.message_type
    }
    found = [
        _binding(f"{file.package}.{service.name}/{method.name}", method, messages)
        for file in descriptors.file
        if file.package == PUBLIC_PACKAGE
        for service in file.service
        for method in service.method
        if method.options.HasExtension(annotations_pb2.http)
    ]
    return tuple(sorted(found, key=lambda binding: (binding.template, binding.method)))


def _binding(
    rpc: str,
    method: descriptor_pb2.MethodDescriptorProto,
    messages: dict[str, descriptor_pb2.DescriptorProto],
) -> Binding:
    rule = method.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    request = messages[method.input_type]
    # Bytes as the whole request, or as the one field of it that the path does not set.
    raw = {field.name for field in request.field if field.type_name == _HTTP_BODY}
    takes = {"", "*", *raw}
    if verb not in _METHODS or rule.body not in takes or rule.additional_bindings or method.client_streaming:
        raise UnroutableRpcError(f'{rpc}: the gateway renders plain rules with body "*", an HttpBody, or none')
    template: str = getattr(rule, verb)
    in_path = {segment.split("}")[0] for segment in template.split("{")[1:]}
    return Binding(
        method=verb.upper(),
        template=template,
        rpc=rpc,
        streams=method.server_streaming,
        has_body=bool(rule.body),
        raw_body=bool(rule.body) and (rule.body in raw or method.input_type == _HTTP_BODY),
        query_parameters=() if rule.body else tuple(field.name for field in request.field if field.name not in in_path),
    )
