"""A client of gRPC that does as it is told: grpc_client.py OPTIONS, a JSON object. It takes commands from its standard
input, a JSON object a line, and tells what came of them in the same way. It ends when its standard input does.

address      such as 127.0.0.1:9000
tls          the server's certificate is fetched first, and is the one that is believed
user_agent   stands before that of the library
"""

import json
import ssl
import sys
import threading

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

LIMIT = 20

options = json.loads(sys.argv[1])
# A channel of its own for each connection, and none that tries again behind our back.
arguments = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
if options.get("user_agent"):
    arguments.append(("grpc.primary_user_agent", options["user_agent"]))
if options.get("tls"):
    host, port = options["address"].rsplit(":", 1)
    certificate = ssl.get_server_certificate((host, int(port))).encode()


def connect():
    if options.get("tls"):
        credentials = grpc.ssl_channel_credentials(certificate)
        return grpc.secure_channel(options["address"], credentials, arguments)
    return grpc.insecure_channel(options["address"], arguments)


channel = connect()
health = health_pb2_grpc.HealthStub(channel)
telling = threading.Lock()


def tell(**what):
    with telling:
        print(json.dumps(what), flush=True)


def name(answer):
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def failed(error):
    return {"code": error.code().name, "details": error.details()}


def follow(call):
    try:
        for answer in call:
            tell(status=name(answer))
        tell(code=call.code().name, details=call.details())
    except grpc.RpcError as error:
        tell(**failed(error))


def check(service="", metadata=(), timeout=LIMIT):
    request = health_pb2.HealthCheckRequest(service=service)
    tell(status=name(health.Check(request, timeout=timeout, metadata=[tuple(pair) for pair in metadata])))


def watch(service="", timeout=None):
    """Tells every status from now on, and how it ends."""
    call = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
    threading.Thread(target=follow, args=[call], daemon=True).start()


def watch_many(count, connections):
    """Tells how many of so many streams were answered, and what the first other one heard. They stay open."""
    stubs = [health_pb2_grpc.HealthStub(connect()) for _ in range(connections)]
    open_streams.extend(stubs[at % connections].Watch(health_pb2.HealthCheckRequest()) for at in range(count))
    answered, refusals = 0, []
    for call in list(open_streams):
        try:
            next(call)
            answered += 1
        except grpc.RpcError as error:
            open_streams.remove(call)
            refusals.append(failed(error))
    tell(answered=answered, refused=len(refusals), refusal=next(iter(refusals), None))


def leave_one():
    open_streams.pop().cancel()
    tell(left=len(open_streams))


def call(path):
    """A method that the client knows nothing of."""
    unary = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    unary(b"", timeout=LIMIT)
    tell(code="OK")


def reflect():
    """Services, and the methods of one, as tools find them out."""
    database = ProtoReflectionDescriptorDatabase(channel)
    service = DescriptorPool(database).FindServiceByName("grpc.health.v1.Health")
    tell(services=sorted(database.get_services()), methods=[method.name for method in service.methods])


def invoke(path, requests, metadata=()):
    """Calls a method of which only its name is known: the server describes its messages. Tells all of its answers."""
    service, name = path.strip("/").split("/")
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName(service).methods_by_name[name]
    taken, made = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    kind = ("stream_" if method.client_streaming else "unary_") + ("stream" if method.server_streaming else "unary")
    stub = getattr(channel, kind)(
        path, request_serializer=taken.SerializeToString, response_deserializer=made.FromString
    )
    messages = [ParseDict(request, taken()) for request in requests]
    given = iter(messages) if method.client_streaming else messages[0]
    came = stub(given, timeout=LIMIT, metadata=[tuple(pair) for pair in metadata])
    answers = came if method.server_streaming else [came]
    tell(answers=[MessageToDict(answer, preserving_proto_field_name=True) for answer in answers])


open_streams = []
commands = {each.__name__: each for each in (check, watch, watch_many, leave_one, call, reflect, invoke)}
for line in sys.stdin:
    asked = json.loads(line)
    try:
        commands[asked.pop("do")](**asked)
    except grpc.RpcError as error:
        tell(**failed(error))
