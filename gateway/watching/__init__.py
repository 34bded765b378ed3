"""Watching live calls: RTVI over a WebSocket, for who has a token of the API. docs/watching.md says what is told."""
