"""The control core: events in, leases out.

Pure: no I/O, no clock, no gRPC, no protobuf. Time arrives inside events (span
durations and time stamps); everything at its boundary is a plain dataclass or
NamedTuple of `control_service.core.types`.
"""
