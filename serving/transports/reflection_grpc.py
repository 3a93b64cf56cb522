"""gRPC's server reflection, so that grpcurl and the like need no .proto files; open to everybody.

Its two versions differ in the package's name only: both are read and written with the messages of the newer one.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from google.protobuf.descriptor import FileDescriptor

from driftwheel.errors import InvalidRequestError, NotFoundError, RequestError
from serving import proto_pool
from serving._proto import reflection_v1_pb2 as pb
from serving._proto import reflection_v1alpha_pb2
from serving.codes import code_of
from serving.transports.grpc_calls import CallContext, Method, Streaming, parsed

_METHOD = "ServerReflectionInfo"


class ReflectionGrpc:
    """The service, in both versions.

    Args:
        files: The descriptors of the services that are told of, besides reflection itself.
    """

    def __init__(self, files: Sequence[FileDescriptor]) -> None:
        self._pool = proto_pool.Default()
        own = (pb.DESCRIPTOR, reflection_v1alpha_pb2.DESCRIPTOR)
        self._paths = [f"/{service.full_name}/{_METHOD}" for file in own for service in file.services_by_name.values()]
        services = [service.full_name for file in (*files, *own) for service in file.services_by_name.values()]
        self._services = sorted(services)

    def methods(self) -> Mapping[str, Method]:
        """By path."""
        return {path: Streaming(self._info, role=None) for path in self._paths}

    async def _info(self, requests: AsyncIterator[bytes], ctx: CallContext) -> AsyncGenerator[bytes]:
        del ctx
        async for message in requests:
            yield self._answer(parsed(pb.ServerReflectionRequest, message)).SerializeToString()

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill(response, request)
        except RequestError as error:
            response.error_response.error_code = code_of(error).grpc
            response.error_response.error_message = error.message
        return response

    def _fill(self, response: pb.ServerReflectionResponse, request: pb.ServerReflectionRequest) -> None:
        match request.WhichOneof("message_request"):
            case "list_services":
                response.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in self._services)
            case "file_by_filename":
                self._fill_files(response, self._file_named(request.file_by_filename))
            case "file_containing_symbol":
                self._fill_files(response, self._file_with(request.file_containing_symbol))
            case "file_containing_extension":
                extension = request.file_containing_extension
                self._check_type(extension.containing_type)
                raise NotFoundError(f"{extension.containing_type} has no extension {extension.extension_number}")
            case "all_extension_numbers_of_type":
                self._check_type(request.all_extension_numbers_of_type)
                # It has none: extensions are proto2's.
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            case _:
                raise InvalidRequestError("the request asks for nothing")

    def _file_named(self, name: str) -> FileDescriptor:
        try:
            return self._pool.FindFileByName(name)
        except KeyError:
            raise NotFoundError(f"no file {name[:200]!r}") from None

    def _file_with(self, symbol: str) -> FileDescriptor:
        parent, _, method = symbol.rpartition(".")
        with contextlib.suppress(KeyError):
            return self._pool.FindFileContainingSymbol(symbol)
        with contextlib.suppress(KeyError):  # the pool does not look for methods
            return self._pool.FindServiceByName(parent).methods_by_name[method].containing_service.file
        raise NotFoundError(f"no symbol {symbol[:200]!r}")

    def _check_type(self, name: str) -> None:
        try:
            self._pool.FindMessageTypeByName(name)
        except KeyError:
            raise NotFoundError(f"no message {name[:200]!r}") from None

    def _fill_files(self, response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
        """The file, and all that it imports behind it."""
        files = {file.name: file}
        for one in _imports(file):
            files.setdefault(one.name, one)
        response.file_descriptor_response.file_descriptor_proto.extend(one.serialized_pb for one in files.values())


def _imports(file: FileDescriptor) -> list[FileDescriptor]:
    return [found for imported in file.dependencies for found in (imported, *_imports(imported))]
