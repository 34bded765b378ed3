"""Transports for programs that build their own pipeline: Pipecat's names over the gateway's own call path.

`base` has BaseTransport and TransportParams, `fastapi`, `server` and `client` the WebSocket transports, `runner` what a
`bot(runner_args)` is given, and `telephony` what finds out which carrier is calling.
"""
