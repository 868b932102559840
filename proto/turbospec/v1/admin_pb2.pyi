from turbospec.v1 import control_pb2 as _control_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListEnginesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEnginesResponse(_message.Message):
    __slots__ = ("service_version", "uptime_ms", "engines")
    SERVICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    service_version: str
    uptime_ms: int
    engines: _containers.RepeatedCompositeFieldContainer[EngineStatus]
    def __init__(self, service_version: _Optional[str] = ..., uptime_ms: _Optional[int] = ..., engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ...) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("profile", "profile_hash", "connected", "mode", "canary_percent", "policy", "model_generation", "step_index", "batch_size", "context_tokens", "num_steps", "decisions_total", "steps_total", "committed_tokens_total", "draft_tokens_total", "accepted_tokens_total", "switches_total", "steps_by_source", "fallbacks_by_reason", "steps_by_num_steps", "drops_by_cause", "acceptance_rate", "mean_accepted_length_tokens", "goodput_tokens_per_s", "predicted_goodput_tokens_per_s", "predicted_goodput_without_speculation_tokens_per_s", "step_control_us", "decision_wait_us", "answer_us", "policy_parameters", "policy_hold_left_ms")
    class StepsBySourceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FallbacksByReasonEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StepsByNumStepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class DropsByCauseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class PolicyParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_HASH_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STEPS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SWITCHES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    STEPS_BY_SOURCE_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_BY_REASON_FIELD_NUMBER: _ClassVar[int]
    STEPS_BY_NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    DROPS_BY_CAUSE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_RATE_FIELD_NUMBER: _ClassVar[int]
    MEAN_ACCEPTED_LENGTH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GOODPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_GOODPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_GOODPUT_WITHOUT_SPECULATION_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    STEP_CONTROL_US_FIELD_NUMBER: _ClassVar[int]
    DECISION_WAIT_US_FIELD_NUMBER: _ClassVar[int]
    ANSWER_US_FIELD_NUMBER: _ClassVar[int]
    POLICY_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    POLICY_HOLD_LEFT_MS_FIELD_NUMBER: _ClassVar[int]
    profile: _control_pb2.EngineProfile
    profile_hash: str
    connected: bool
    mode: _control_pb2.Mode
    canary_percent: int
    policy: str
    model_generation: int
    step_index: int
    batch_size: int
    context_tokens: int
    num_steps: int
    decisions_total: int
    steps_total: int
    committed_tokens_total: int
    draft_tokens_total: int
    accepted_tokens_total: int
    switches_total: int
    steps_by_source: _containers.ScalarMap[str, int]
    fallbacks_by_reason: _containers.ScalarMap[str, int]
    steps_by_num_steps: _containers.ScalarMap[int, int]
    drops_by_cause: _containers.ScalarMap[str, int]
    acceptance_rate: float
    mean_accepted_length_tokens: float
    goodput_tokens_per_s: float
    predicted_goodput_tokens_per_s: float
    predicted_goodput_without_speculation_tokens_per_s: float
    step_control_us: Quantiles
    decision_wait_us: Quantiles
    answer_us: Quantiles
    policy_parameters: _containers.ScalarMap[str, str]
    policy_hold_left_ms: int
    def __init__(self, profile: _Optional[_Union[_control_pb2.EngineProfile, _Mapping]] = ..., profile_hash: _Optional[str] = ..., connected: _Optional[bool] = ..., mode: _Optional[_Union[_control_pb2.Mode, str]] = ..., canary_percent: _Optional[int] = ..., policy: _Optional[str] = ..., model_generation: _Optional[int] = ..., step_index: _Optional[int] = ..., batch_size: _Optional[int] = ..., context_tokens: _Optional[int] = ..., num_steps: _Optional[int] = ..., decisions_total: _Optional[int] = ..., steps_total: _Optional[int] = ..., committed_tokens_total: _Optional[int] = ..., draft_tokens_total: _Optional[int] = ..., accepted_tokens_total: _Optional[int] = ..., switches_total: _Optional[int] = ..., steps_by_source: _Optional[_Mapping[str, int]] = ..., fallbacks_by_reason: _Optional[_Mapping[str, int]] = ..., steps_by_num_steps: _Optional[_Mapping[int, int]] = ..., drops_by_cause: _Optional[_Mapping[str, int]] = ..., acceptance_rate: _Optional[float] = ..., mean_accepted_length_tokens: _Optional[float] = ..., goodput_tokens_per_s: _Optional[float] = ..., predicted_goodput_tokens_per_s: _Optional[float] = ..., predicted_goodput_without_speculation_tokens_per_s: _Optional[float] = ..., step_control_us: _Optional[_Union[Quantiles, _Mapping]] = ..., decision_wait_us: _Optional[_Union[Quantiles, _Mapping]] = ..., answer_us: _Optional[_Union[Quantiles, _Mapping]] = ..., policy_parameters: _Optional[_Mapping[str, str]] = ..., policy_hold_left_ms: _Optional[int] = ...) -> None: ...

class Quantiles(_message.Message):
    __slots__ = ("count", "p50", "p99", "max")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    count: int
    p50: float
    p99: float
    max: float
    def __init__(self, count: _Optional[int] = ..., p50: _Optional[float] = ..., p99: _Optional[float] = ..., max: _Optional[float] = ...) -> None: ...

class GetEngineModelsRequest(_message.Message):
    __slots__ = ("engine_id",)
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    def __init__(self, engine_id: _Optional[str] = ...) -> None: ...

class GetEngineModelsResponse(_message.Message):
    __slots__ = ("engine_id", "model_generation", "acceptance", "step_time", "shared_coefficients_s", "step_time_ready", "not_ready_reason")
    class SharedCoefficientsSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    SHARED_COEFFICIENTS_S_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_REASON_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    model_generation: int
    acceptance: _containers.RepeatedCompositeFieldContainer[AcceptancePosition]
    step_time: _containers.RepeatedCompositeFieldContainer[StepTimeCell]
    shared_coefficients_s: _containers.ScalarMap[str, float]
    step_time_ready: bool
    not_ready_reason: str
    def __init__(self, engine_id: _Optional[str] = ..., model_generation: _Optional[int] = ..., acceptance: _Optional[_Iterable[_Union[AcceptancePosition, _Mapping]]] = ..., step_time: _Optional[_Iterable[_Union[StepTimeCell, _Mapping]]] = ..., shared_coefficients_s: _Optional[_Mapping[str, float]] = ..., step_time_ready: _Optional[bool] = ..., not_ready_reason: _Optional[str] = ...) -> None: ...

class AcceptancePosition(_message.Message):
    __slots__ = ("position", "accepted", "rejected", "probability", "standard_error", "after_full_accept")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    STANDARD_ERROR_FIELD_NUMBER: _ClassVar[int]
    AFTER_FULL_ACCEPT_FIELD_NUMBER: _ClassVar[int]
    position: int
    accepted: float
    rejected: float
    probability: float
    standard_error: float
    after_full_accept: bool
    def __init__(self, position: _Optional[int] = ..., accepted: _Optional[float] = ..., rejected: _Optional[float] = ..., probability: _Optional[float] = ..., standard_error: _Optional[float] = ..., after_full_accept: _Optional[bool] = ...) -> None: ...

class StepTimeCell(_message.Message):
    __slots__ = ("num_steps", "batch_size", "samples", "intercept_s", "context_slope_s_per_token", "error_ratio")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_S_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SLOPE_S_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    batch_size: int
    samples: int
    intercept_s: float
    context_slope_s_per_token: float
    error_ratio: float
    def __init__(self, num_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., samples: _Optional[int] = ..., intercept_s: _Optional[float] = ..., context_slope_s_per_token: _Optional[float] = ..., error_ratio: _Optional[float] = ...) -> None: ...

class ExplainDecisionRequest(_message.Message):
    __slots__ = ("engine_id", "decision_id")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    decision_id: int
    def __init__(self, engine_id: _Optional[str] = ..., decision_id: _Optional[int] = ...) -> None: ...

class ExplainDecisionResponse(_message.Message):
    __slots__ = ("engine_id", "decision_id", "step_index", "batch_size", "context_tokens", "policy", "model_generation", "num_steps", "reason", "candidates", "waiting_requests", "margin")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    decision_id: int
    step_index: int
    batch_size: int
    context_tokens: int
    policy: str
    model_generation: int
    num_steps: int
    reason: str
    candidates: _containers.RepeatedCompositeFieldContainer[CandidatePrediction]
    waiting_requests: int
    margin: Margin
    def __init__(self, engine_id: _Optional[str] = ..., decision_id: _Optional[int] = ..., step_index: _Optional[int] = ..., batch_size: _Optional[int] = ..., context_tokens: _Optional[int] = ..., policy: _Optional[str] = ..., model_generation: _Optional[int] = ..., num_steps: _Optional[int] = ..., reason: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[CandidatePrediction, _Mapping]]] = ..., waiting_requests: _Optional[int] = ..., margin: _Optional[_Union[Margin, _Mapping]] = ...) -> None: ...

class Margin(_message.Message):
    __slots__ = ("runner_up_num_steps", "gain_ratio", "gain_standard_error_ratio", "gain_standard_errors")
    RUNNER_UP_NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    GAIN_RATIO_FIELD_NUMBER: _ClassVar[int]
    GAIN_STANDARD_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    GAIN_STANDARD_ERRORS_FIELD_NUMBER: _ClassVar[int]
    runner_up_num_steps: int
    gain_ratio: float
    gain_standard_error_ratio: float
    gain_standard_errors: float
    def __init__(self, runner_up_num_steps: _Optional[int] = ..., gain_ratio: _Optional[float] = ..., gain_standard_error_ratio: _Optional[float] = ..., gain_standard_errors: _Optional[float] = ...) -> None: ...

class CandidatePrediction(_message.Message):
    __slots__ = ("num_steps", "expected_tokens", "expected_step_s", "goodput_tokens_per_s", "goodput_standard_error_tokens_per_s", "regret_ratio", "tokens_standard_error_ratio", "step_standard_error_ratio", "gap_standard_error_ratio")
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STEP_S_FIELD_NUMBER: _ClassVar[int]
    GOODPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    GOODPUT_STANDARD_ERROR_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    REGRET_RATIO_FIELD_NUMBER: _ClassVar[int]
    TOKENS_STANDARD_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    STEP_STANDARD_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    GAP_STANDARD_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    num_steps: int
    expected_tokens: float
    expected_step_s: float
    goodput_tokens_per_s: float
    goodput_standard_error_tokens_per_s: float
    regret_ratio: float
    tokens_standard_error_ratio: float
    step_standard_error_ratio: float
    gap_standard_error_ratio: float
    def __init__(self, num_steps: _Optional[int] = ..., expected_tokens: _Optional[float] = ..., expected_step_s: _Optional[float] = ..., goodput_tokens_per_s: _Optional[float] = ..., goodput_standard_error_tokens_per_s: _Optional[float] = ..., regret_ratio: _Optional[float] = ..., tokens_standard_error_ratio: _Optional[float] = ..., step_standard_error_ratio: _Optional[float] = ..., gap_standard_error_ratio: _Optional[float] = ...) -> None: ...

class SetModeRequest(_message.Message):
    __slots__ = ("engine_id", "mode", "canary_percent")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    mode: _control_pb2.Mode
    canary_percent: int
    def __init__(self, engine_id: _Optional[str] = ..., mode: _Optional[_Union[_control_pb2.Mode, str]] = ..., canary_percent: _Optional[int] = ...) -> None: ...

class SetModeResponse(_message.Message):
    __slots__ = ("mode", "canary_percent")
    MODE_FIELD_NUMBER: _ClassVar[int]
    CANARY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    mode: _control_pb2.Mode
    canary_percent: int
    def __init__(self, mode: _Optional[_Union[_control_pb2.Mode, str]] = ..., canary_percent: _Optional[int] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("engine_id", "policy", "parameters", "hold_for_ms")
    class ParametersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    policy: str
    parameters: _containers.ScalarMap[str, str]
    hold_for_ms: int
    def __init__(self, engine_id: _Optional[str] = ..., policy: _Optional[str] = ..., parameters: _Optional[_Mapping[str, str]] = ..., hold_for_ms: _Optional[int] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    def __init__(self, policy: _Optional[str] = ...) -> None: ...

class WatchStepsRequest(_message.Message):
    __slots__ = ("engine_id",)
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    def __init__(self, engine_id: _Optional[str] = ...) -> None: ...

class WatchStepsResponse(_message.Message):
    __slots__ = ("engines", "steps", "dropped_total")
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    engines: _containers.RepeatedCompositeFieldContainer[_control_pb2.EngineProfile]
    steps: _containers.RepeatedCompositeFieldContainer[ObservedStep]
    dropped_total: int
    def __init__(self, engines: _Optional[_Iterable[_Union[_control_pb2.EngineProfile, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[ObservedStep, _Mapping]]] = ..., dropped_total: _Optional[int] = ...) -> None: ...

class ObservedStep(_message.Message):
    __slots__ = ("engine_id", "epoch", "step_index", "batch_size", "context_tokens", "waiting_requests", "num_steps", "previous_num_steps", "start_s", "duration_s", "accepted_drafts", "first_step", "source", "fallback_reason", "decision_id", "decision_wait_us", "control_us", "dropped_records", "after_full_accept")
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_INDEX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_WAIT_US_FIELD_NUMBER: _ClassVar[int]
    CONTROL_US_FIELD_NUMBER: _ClassVar[int]
    DROPPED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FULL_ACCEPT_FIELD_NUMBER: _ClassVar[int]
    engine_id: str
    epoch: int
    step_index: int
    batch_size: int
    context_tokens: int
    waiting_requests: int
    num_steps: int
    previous_num_steps: int
    start_s: float
    duration_s: float
    accepted_drafts: _containers.RepeatedScalarFieldContainer[int]
    first_step: _containers.RepeatedScalarFieldContainer[bool]
    source: str
    fallback_reason: str
    decision_id: int
    decision_wait_us: float
    control_us: float
    dropped_records: int
    after_full_accept: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, engine_id: _Optional[str] = ..., epoch: _Optional[int] = ..., step_index: _Optional[int] = ..., batch_size: _Optional[int] = ..., context_tokens: _Optional[int] = ..., waiting_requests: _Optional[int] = ..., num_steps: _Optional[int] = ..., previous_num_steps: _Optional[int] = ..., start_s: _Optional[float] = ..., duration_s: _Optional[float] = ..., accepted_drafts: _Optional[_Iterable[int]] = ..., first_step: _Optional[_Iterable[bool]] = ..., source: _Optional[str] = ..., fallback_reason: _Optional[str] = ..., decision_id: _Optional[int] = ..., decision_wait_us: _Optional[float] = ..., control_us: _Optional[float] = ..., dropped_records: _Optional[int] = ..., after_full_accept: _Optional[_Iterable[bool]] = ...) -> None: ...
