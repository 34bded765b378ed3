// The page under test: the official client, with what it was told kept for the test to look at.
import { PipecatClient, RTVIEvent } from "@pipecat-ai/client-js";
import { WebSocketTransport, WavMediaManager } from "@pipecat-ai/websocket-transport";

window.events = [];
window.make = () => {
  const client = new PipecatClient({
    transport: new WebSocketTransport({ mediaManager: new WavMediaManager(512, 16000) }),
    enableMic: true,
    enableCam: false,
  });
  for (const name of Object.values(RTVIEvent)) {
    client.on(name, (data) => {
      let kept = null;
      try {
        kept = JSON.parse(JSON.stringify(data ?? null));
      } catch {}
      window.events.push({ name, data: kept });
    });
  }
  window.client = client;
};
