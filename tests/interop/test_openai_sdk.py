"""The openai Python SDK's `client.live`, unmodified: only `base_url` is ours."""

import asyncio
import base64

import numpy as np
from openai import AsyncOpenAI

PACKET = 1600  # 100 ms at 16 kHz
LONGEST_S = 60


async def converse(address: str, speech: np.ndarray) -> tuple[np.ndarray, set[str]]:
    """Speaks in real time until a second of reply has come; returns the reply and the types of all events."""
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none")
    heard, kinds = [], set()
    async with client.live.connect() as connection:
        audio = {"format": {"type": "audio/pcm", "rate": 16000}}
        await connection.session.start(session={"model": "gpt-live-1", "audio": audio})

        async def listen():
            async for event in connection:
                kinds.add(event.type)
                if event.type == "session.output_audio.delta":
                    heard.append(np.frombuffer(base64.b64decode(event.delta), np.int16))
                if event.type == "session.closed":
                    return

        listening = asyncio.create_task(listen())
        begin = asyncio.get_running_loop().time()
        for packet in range(LONGEST_S * 16000 // PACKET):
            start = packet * PACKET % (len(speech) - PACKET)
            samples = speech[start : start + PACKET].tobytes()
            await connection.session.input_audio.append(
                audio=base64.b64encode(samples).decode()
            )
            await asyncio.sleep(
                max(0, begin + (packet + 1) / 10 - asyncio.get_running_loop().time())
            )
            if sum(map(len, heard)) > 16000:
                break
        await connection.session.close()
        await asyncio.wait_for(listening, 20)
    return np.concatenate(heard) if heard else np.zeros(0, np.int16), kinds


def test_a_conversation_is_heard_and_closed(server, speech):
    heard, kinds = asyncio.run(converse(server, speech))
    assert len(heard) > 16000, "a second of reply came"
    assert np.abs(heard.astype(int)).max() > 100, "it is no silence"
    assert {
        "session.started",
        "session.output_transcript.delta",
        "session.closed",
    } <= kinds
    assert not any(kind.startswith("duologue.") for kind in kinds), (
        "a plain client hears of nothing it does not know"
    )
