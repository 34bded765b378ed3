from typing import ClassVar

from gateway.simulator.twilio import FakeTwilio
from serializers.base import WireOptions
from serializers.twilio import TwilioFrameSerializer
from tests.serializers.conformance import SerializerConformance, machine


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: TwilioFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakeTwilio)
    plan: ClassVar = {"parameters": {"bot": "sales"}}
    digits = "0123456789*#ABCD"


TestMachine = machine(TestConformance)
