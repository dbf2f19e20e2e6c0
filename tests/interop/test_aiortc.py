"""aiortc over WebRTC: offer by POST, events on the data channel, Opus both ways."""

import asyncio
import fractions
import json
import urllib.request

import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame

FRAME = 320  # 20 ms at 16 kHz
PATIENCE_S = 90


class Microphone(MediaStreamTrack):
    """A recording, over and over, in real time."""

    kind = "audio"

    def __init__(self, speech: np.ndarray):
        super().__init__()
        self.speech, self.sent, self.begin = speech, 0, None

    async def recv(self):
        loop = asyncio.get_running_loop()
        self.begin = self.begin or loop.time()
        await asyncio.sleep(max(0, self.begin + self.sent / 16000 - loop.time()))
        start = self.sent % (len(self.speech) - FRAME)
        frame = AudioFrame.from_ndarray(
            self.speech[None, start : start + FRAME], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = (
            16000,
            self.sent,
            fractions.Fraction(1, 16000),
        )
        self.sent += FRAME
        return frame


def post(address: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{address}/v1/live/sessions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


async def converse(address: str, speech: np.ndarray) -> tuple[list[str], int]:
    """Speaks until loud sound has come; returns the types of all events and the number of loud frames."""
    peer = RTCPeerConnection()
    channel = peer.createDataChannel("oai-events")
    kinds, loud, enough = [], 0, asyncio.Event()
    channel.on("message", lambda text: kinds.append(json.loads(text)["type"]))

    @peer.on("track")
    def hear(track):
        async def run():
            nonlocal loud
            while True:
                frame = await track.recv()
                if np.abs(frame.to_ndarray().astype(int)).max() > 100:
                    loud += 1
                if loud >= 25:
                    enough.set()

        tasks.append(asyncio.ensure_future(run()))

    tasks: list[asyncio.Future] = []
    peer.addTrack(Microphone(speech))
    await peer.setLocalDescription(await peer.createOffer())
    body = {
        "session": {"model": "gpt-live-1", "duologue": {}},
        "transport": {"type": "webrtc", "sdp": peer.localDescription.sdp},
    }
    answer = await asyncio.to_thread(post, address, body)
    await peer.setRemoteDescription(
        RTCSessionDescription(answer["transport"]["sdp"], "answer")
    )
    await asyncio.wait_for(enough.wait(), PATIENCE_S)
    channel.send(json.dumps({"type": "session.close"}))
    for _ in range(100):
        if "session.closed" in kinds:
            break
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await peer.close()
    return kinds, loud


def test_a_conversation_over_webrtc(server, speech):
    kinds, loud = asyncio.run(converse(server, speech))
    assert kinds[0] == "session.started", kinds[:3]
    assert {
        "duologue.unit",
        "session.output_transcript.delta",
        "session.closed",
    } <= set(kinds)
    assert "session.output_audio.delta" not in kinds, "sound comes as sound"
    assert loud >= 25
