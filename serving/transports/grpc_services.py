"""Which gRPC services there are."""

from serving._proto import driftwheel_pb2, health_pb2, open_inference_pb2, torchserve_inference_pb2
from serving.features import OnlineFeatures
from serving.recording import Recorder
from serving.service import InferenceService
from serving.transports import oip_service, recommend_grpc, torchserve_grpc
from serving.transports.grpc_calls import GrpcService
from serving.transports.health_grpc import HealthGrpc
from serving.transports.oip_service import OipGrpc
from serving.transports.recommend_grpc import RecommendGrpc
from serving.transports.reflection_grpc import ReflectionGrpc
from serving.transports.torchserve_grpc import TorchServeGrpc


def grpc_services(
    service: InferenceService, recorder: Recorder, features: OnlineFeatures | None
) -> tuple[GrpcService, ...]:
    """All of them, for ``GrpcTransport``.

    Args:
        features: Of customers that are only named; None where the server has no feature store.
    """
    files = (
        driftwheel_pb2.DESCRIPTOR,
        open_inference_pb2.DESCRIPTOR,
        torchserve_inference_pb2.DESCRIPTOR,
        health_pb2.DESCRIPTOR,
    )
    return (
        OipGrpc(service, recorder, features),
        TorchServeGrpc(service),
        RecommendGrpc(service),
        HealthGrpc(service, frozenset({oip_service.SERVICE, torchserve_grpc.SERVICE, recommend_grpc.SERVICE})),
        ReflectionGrpc(files),
    )
