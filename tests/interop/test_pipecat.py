"""pipecat's `OpenAILiveLLMService`, unmodified, in a pipeline as its users build it: only `base_url` is ours."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    LLMRunFrame,
    SpeechOutputAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.live.events import ResponseCreateEvent
from pipecat.services.openai.live.llm import OpenAILiveLLMService
from pipecat.workers.runner import WorkerRunner

FRAME = 320  # 20 ms at 16 kHz
PATIENCE_S = 60


@dataclass
class Heard:
    """What came of a conversation."""

    audio: list[np.ndarray] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    messages: list[dict] = field(default_factory=list)

    def samples(self) -> int:
        return sum(map(len, self.audio))


class Loudspeaker(FrameProcessor):
    """Stands where a transport would play the reply."""

    def __init__(self, heard: Heard):
        super().__init__()
        self.heard = heard

    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        if isinstance(frame, SpeechOutputAudioRawFrame):
            assert (frame.sample_rate, frame.num_channels) == (24000, 1)
            self.heard.audio.append(np.frombuffer(frame.audio, np.int16))
        elif isinstance(frame, TTSTextFrame):
            self.heard.words.append(frame.text)
        await self.push_frame(frame, direction)


async def converse(address: str, speech: np.ndarray, enough, **settings) -> Heard:
    """Speaks in real time until `enough(heard)`, then ends the pipeline; an error of the service is kept, too."""
    heard, context = Heard(), LLMContext()
    service = OpenAILiveLLMService(
        api_key="none",
        base_url=f"{address.replace('http', 'ws')}/v1/live/sessions",
        settings=OpenAILiveLLMService.Settings(**settings),
    )
    aggregators = LLMContextAggregatorPair(context)
    steps = [aggregators.user(), service, Loudspeaker(heard), aggregators.assistant()]
    worker = PipelineWorker(
        Pipeline(steps),
        params=PipelineParams(audio_in_sample_rate=16000, audio_out_sample_rate=24000),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )
    ready = asyncio.Event()

    @worker.event_handler("on_pipeline_started")
    async def begin(*_):
        await worker.queue_frame(LLMRunFrame())

    @service.event_handler("on_session_started")
    async def session_started(*_):
        # Nothing that we serve may ask for this: the session must survive the refusal.
        await service.send_client_event(ResponseCreateEvent())
        ready.set()

    @worker.event_handler("on_pipeline_error")
    async def failed(_, frame):
        heard.errors.append(frame.error)
        ready.set()

    async def speak():
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        loop = asyncio.get_running_loop()
        start, sent = loop.time(), 0
        while not enough(heard) and loop.time() < start + PATIENCE_S:
            place = sent % (len(speech) - FRAME)
            audio = speech[place : place + FRAME].tobytes()
            await worker.queue_frame(InputAudioRawFrame(audio, 16000, 1))
            sent += FRAME
            await asyncio.sleep(max(0, start + sent / 16000 - loop.time()))
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    heard.messages = list(context.get_messages())
    return heard


def test_a_conversation_is_heard_and_remembered(server, speech, until_idle):
    heard = asyncio.run(converse(server, speech, lambda heard: heard.samples() > 36000))
    assert heard.samples() > 36000, "a second and a half of reply came"
    assert np.abs(np.concatenate(heard.audio).astype(int)).max() > 100
    assert {message["role"] for message in heard.messages} == {"assistant"}
    said = "".join(message["content"] for message in heard.messages)
    assert "".join(said.split()) == "".join("".join(heard.words).split())
    assert len(heard.errors) == 1, heard.errors
    assert "unsupported" in heard.errors[0] and "response.create" in heard.errors[0]
    until_idle()


def test_a_refused_start_is_an_error_of_the_service(server, speech, until_idle):
    heard = asyncio.run(
        converse(server, speech, lambda heard: heard.errors, voice="nobody")
    )
    assert heard.samples() == 0
    assert (
        "Session startup failed: invalid_request_error/invalid_value" in heard.errors[0]
    )
    assert "session.audio.output.voice" in heard.errors[0], heard.errors
    until_idle()
