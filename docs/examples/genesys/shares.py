"""A monitor: how long customer and agent have spoken. The agent is told when the customer hardly gets a word in.

In:  the voices of both, each in frames of its own: `user_id` is "customer" or "agent".
Out: an agent-assist entity during the call; customer_s and agent_s when it is over.
"""

from media.frames import EndFrame, UserAudioRawFrame
from media.processor import FrameProcessor
from serializers.genesys_events import agent_assist

LOUD = 500  # of 32768: speech, not the line's noise


class Shares(FrameProcessor):
    def __init__(self, call):
        super().__init__()
        self.call = call
        self.spoken_s = {"customer": 0.0, "agent": 0.0}
        self.told = False

    def process_frame(self, frame, direction):
        if isinstance(frame, UserAudioRawFrame):
            self.hear(frame)
        elif isinstance(frame, EndFrame):
            for voice, seconds in self.spoken_s.items():
                self.call.variables[f"{voice}_s"] = round(seconds, 1)
        self.push_frame(frame, direction)

    def hear(self, frame):
        samples = memoryview(frame.audio).cast("h")
        if sum(map(abs, samples)) > LOUD * len(samples):
            self.spoken_s[frame.user_id] += len(samples) / frame.sample_rate
        agent_s, customer_s = self.spoken_s["agent"], self.spoken_s["customer"]
        if not self.told and agent_s > 10 and customer_s < agent_s / 10:
            self.told = True
            self.push_frame(agent_assist({"hint": "Let the customer speak."}))


def bot(call):
    return [Shares(call)]
