"""What Triton's messages say of a model, and what a load names."""

from collections.abc import Mapping

import msgspec
from google.protobuf.json_format import ParseDict

from driftwheel.contracts import InputSpec, OutputSpec
from driftwheel.errors import InvalidRequestError
from serving import model_config
from serving._proto import open_inference_pb2 as pb
from serving.engine import LoadedVersion
from serving.repository import ServedModel
from serving.versions import parse_version


def model_metadata(served: ServedModel, loaded: LoadedVersion) -> pb.ModelMetadataResponse:
    """The tensors of a version, and which versions there are."""
    return pb.ModelMetadataResponse(
        name=loaded.name,
        versions=[str(version) for version in sorted(served.versions)],
        platform=loaded.backend.platform,
        inputs=[_tensor_metadata(spec) for spec in loaded.signature.inputs],
        outputs=[_tensor_metadata(spec) for spec in loaded.signature.outputs],
    )


def _tensor_metadata(spec: InputSpec | OutputSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=[-1])


def config_message(config: model_config.ModelConfig) -> pb.ModelConfig:
    """A configuration as a message."""
    return ParseDict(msgspec.to_builtins(config), pb.ModelConfig())


def statistics_message(statistics: model_config.ModelStatistics) -> pb.ModelStatistics:
    """Statistics as a message."""
    return ParseDict(msgspec.to_builtins(statistics), pb.ModelStatistics())


def model_name(request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
    """The model that is to be loaded or unloaded. The protocol's own message has the name where Triton's has the
    repository's; there is one repository, so whichever is there is the name.

    Raises:
        InvalidRequestError: None came.
    """
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidRequestError("model_name must name a model, got nothing")
    return name


def loading_version(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> int | None:
    """The version that a load or unload names; None where it names none.

    Raises:
        InvalidRequestError: There is another parameter, or it is no number or text.
        NotFoundError: It is no version's number.
    """
    # Triton's client always says whether to unload dependents; no model here has any.
    if unknown := sorted(parameters.keys() - {"version", "unload_dependents"}):
        raise InvalidRequestError(f"parameter {unknown[0][:80]!r} is unknown; there is 'version'")
    if "version" not in parameters:
        return None
    parameter = parameters["version"]
    match parameter.WhichOneof("parameter_choice"):
        case "int64_param":
            return parse_version(str(parameter.int64_param))
        case "string_param":
            return parse_version(parameter.string_param)
        case _:
            raise InvalidRequestError("parameter 'version' must be a whole number or its text")
