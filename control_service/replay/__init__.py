"""Closed-loop replay in virtual time: the real session against an engine whose truth is known.

`sources` says what would be accepted, `step_times` what a step costs, `engine` holds the running
requests, `loop` runs steps, `controllers` decide (the session as online, fixed lengths, oracles),
`metrics` judges. Only `files` and `recorded` read files and only `report` prints.
"""
