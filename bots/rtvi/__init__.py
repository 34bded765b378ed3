"""RTVI: the messages between a bot and a client that talks to it or watches it."""

from bots.rtvi.observer import RTVIFunctionCallReportLevel, RTVIObserver, RTVIObserverParams
from bots.rtvi.processor import RTVIProcessor
from media.frames import RTVIClientMessageFrame, RTVIServerMessageFrame, RTVIServerResponseFrame

__all__ = [
    "RTVIClientMessageFrame",
    "RTVIFunctionCallReportLevel",
    "RTVIObserver",
    "RTVIObserverParams",
    "RTVIProcessor",
    "RTVIServerMessageFrame",
    "RTVIServerResponseFrame",
]
