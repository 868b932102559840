from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_OFF: _ClassVar[Mode]
    MODE_SHADOW: _ClassVar[Mode]
    MODE_CANARY: _ClassVar[Mode]
    MODE_ENFORCE: _ClassVar[Mode]
MODE_UNSPECIFIED: Mode
MODE_OFF: Mode
MODE_SHADOW: Mode
MODE_CANARY: Mode
MODE_ENFORCE: Mode

class DecideRequest(_message.Message):
    __slots__ = ("profile", "step")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    profile: EngineProfile
    step: StepRequest
    def __init__(self, profile: _Optional[_Union[EngineProfile, _Mapping]] = ..., step: _Optional[_Union[StepRequest, _Mapping]] = ...) -> None: ...

class EngineProfile(_message.Message):
    __slots__ = ("engine_id", "epoch", "sglang_version", "plugin_version", "target_model", "draft_model", "dtype", "accelerator", "tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "algorithm", "topk", "candidate_num_steps", "graph_batch_sizes", "max_running_requests", "launch_num_steps")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SGLANG_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODEL_FIELD_NUMBER: _ClassVar[int]
    DRAFT_MODEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ACCELERATOR_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_PARALLEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_PARALLEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    TOPK_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    GRAPH_BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    MAX_RUNNING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    epoch: int
    sglang_version: str
    plugin_version: str
    target_model: str
    draft_model: str
    dtype: str
    accelerator: str
    tensor_parallel_size: int
    data_parallel_size: int
    pipeline_parallel_size: int
    algorithm: str
    topk: int
    candidate_num_steps: _containers.RepeatedScalarFieldContainer[int]
    graph_batch_sizes: _containers.RepeatedScalarFieldContainer[int]
    max_running_requests: int
    launch_num_steps: int
    def __init__(self, engine_id: _Optional[str] = ..., epoch: _Optional[int] = ..., sglang_version: _Optional[str] = ..., plugin_version: _Optional[str] = ..., target_model: _Optional[str] = ..., draft_model: _Optional[str] = ..., dtype: _Optional[str] = ..., accelerator: _Optional[str] = ..., tensor_parallel_size: _Optional[int] = ..., data_parallel_size: _Optional[int] = ..., pipeline_parallel_size: _Optional[int] = ..., algorithm: _Optional[str] = ..., topk: _Optional[int] = ..., candidate_num_steps: _Optional[_Iterable[int]] = ..., graph_batch_sizes: _Optional[_Iterable[int]] = ..., max_running_requests: _Optional[int] = ..., launch_num_steps: _Optional[int] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("epoch", "step_index", "batch_size", "context_tokens", "waiting_requests")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step_index: int
    batch_size: int
    context_tokens: int
    waiting_requests: int
    def __init__(self, epoch: _Optional[int] = ..., step_index: _Optional[int] = ..., batch_size: _Optional[int] = ..., context_tokens: _Optional[int] = ..., waiting_requests: _Optional[int] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("epoch", "step_index", "decision_id", "model_generation", "valid_for_steps", "valid_for_ms", "mode", "canary_percent", "tiers")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_STEPS_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    step_index: int
    decision_id: int
    model_generation: int
    valid_for_steps: int
    valid_for_ms: int
    mode: Mode
    canary_percent: int
    tiers: _containers.RepeatedCompositeFieldContainer[Tier]
    def __init__(self, epoch: _Optional[int] = ..., step_index: _Optional[int] = ..., decision_id: _Optional[int] = ..., model_generation: _Optional[int] = ..., valid_for_steps: _Optional[int] = ..., valid_for_ms: _Optional[int] = ..., mode: _Optional[_Union[Mode, str]] = ..., canary_percent: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[Tier, _Mapping]]] = ...) -> None: ...

class Tier(_message.Message):
    __slots__ = ("max_batch_size", "num_steps")
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    max_batch_size: int
    num_steps: int
    def __init__(self, max_batch_size: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...
