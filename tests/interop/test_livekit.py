"""livekit-agents' `GPTLiveModel`, its duplex client of the Live API, unmodified, in an `AgentSession` without a room."""

import asyncio

import numpy as np
from livekit import rtc
from livekit.agents import Agent, AgentSession, APIConnectOptions
from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities
from livekit.plugins.openai.realtime import GPTLiveModel

FRAME = 320  # 20 ms at 16 kHz
PATIENCE_S = 60


class Microphone(AudioInput):
    """A recording, over and over, in real time."""

    def __init__(self, speech: np.ndarray):
        super().__init__(label="microphone")
        self.speech, self.sent, self.start = speech, 0, None

    async def __anext__(self) -> rtc.AudioFrame:
        loop = asyncio.get_running_loop()
        self.start = self.start or loop.time()
        await asyncio.sleep(max(0, self.start + self.sent / 16000 - loop.time()))
        place = self.sent % (len(self.speech) - FRAME)
        self.sent += FRAME
        return rtc.AudioFrame(
            self.speech[place : place + FRAME].tobytes(), 16000, 1, FRAME
        )


class Loudspeaker(AudioOutput):
    """Plays at once whatever it is given."""

    def __init__(self):
        capabilities = AudioOutputCapabilities(pause=False)
        super().__init__(
            label="loudspeaker", capabilities=capabilities, sample_rate=24000
        )
        self.audio: list[np.ndarray] = []
        self.segment_s = 0.0
        self.cleared = 0

    def samples(self) -> int:
        return sum(map(len, self.audio))

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self.audio.append(np.frombuffer(frame.data, np.int16))
        self.segment_s += frame.duration

    def flush(self) -> None:
        super().flush()
        self.finish(interrupted=False)

    def clear_buffer(self) -> None:
        self.cleared += 1
        self.finish(interrupted=True)

    def finish(self, interrupted: bool) -> None:
        length, self.segment_s = self.segment_s, 0.0
        if length:
            self.on_playback_finished(playback_position=length, interrupted=interrupted)


async def wait(condition) -> bool:
    """Whether `condition()` holds in time."""
    for _ in range(PATIENCE_S * 20):
        if condition():
            return True
        await asyncio.sleep(0.05)
    return False


def model(address: str, **options) -> GPTLiveModel:
    return GPTLiveModel(
        api_key="none", base_url=f"{address}/v1", delegation="client", **options
    )


async def converse(
    address: str, speech: np.ndarray
) -> tuple[Loudspeaker, list, list[str]]:
    """Listens to a reply, interrupts the agent, listens to another one and closes; returns errors and messages, too."""
    loudspeaker, errors, agent = Loudspeaker(), [], Agent(instructions="Be brief.")
    async with model(address) as live:
        session = AgentSession(llm=live)
        session.input.audio, session.output.audio = Microphone(speech), loudspeaker
        session.on("error", lambda event: errors.append(event.error))
        await session.start(agent)
        # Nothing that we serve may ask for this: the session must survive the refusal.
        agent.duplex_session.send_event({"type": "response.create"})
        assert await wait(lambda: loudspeaker.segment_s > 0.2), "a reply is heard"
        await session.interrupt()
        before = loudspeaker.samples()
        assert await wait(lambda: loudspeaker.samples() > before + 24000), (
            "the next one, too"
        )
        assert agent.duplex_session.session_id
        await session.aclose()
    items = [item for item in session.history.items if item.type == "message"]
    return loudspeaker, errors, [(item.role, item.text_content) for item in items]


def test_an_agent_is_heard_interrupted_and_closed(server, speech, until_idle):
    loudspeaker, errors, messages = asyncio.run(converse(server, speech))
    assert np.abs(np.concatenate(loudspeaker.audio).astype(int)).max() > 100
    assert loudspeaker.cleared, "interrupting reached the loudspeaker"
    assert messages and all(role == "assistant" and text for role, text in messages)
    assert [error.recoverable for error in errors] == [True], errors
    until_idle()


async def refusal(address: str, speech: np.ndarray) -> list:
    """What a session with a voice that does not exist says."""
    errors = []
    options = APIConnectOptions(max_retry=0)
    async with model(address, voice="nobody", conn_options=options) as live:
        session = AgentSession(llm=live)
        session.input.audio, session.output.audio = Microphone(speech), Loudspeaker()
        closed = asyncio.Event()
        session.on("error", lambda event: errors.append(event.error))
        session.on("close", lambda event: closed.set())
        await session.start(Agent(instructions="Be brief."))
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
        await session.aclose()
    return errors


def test_a_refused_start_ends_the_agents_session(server, speech, until_idle):
    errors = asyncio.run(refusal(server, speech))
    # The server's own words first, then the closed connection, which livekit-agents does not try again here.
    assert [error.recoverable for error in errors] == [True, False], errors
    until_idle()
