// A WebRTC server made of a second page of the same browser: answers the offer, speaks a tone when told, measures what it hears.

/** Answers the page's `POST /v1/live/sessions`. `refuse` is an HTTP status to answer instead. */
export async function serveRtc(context, url) {
  const peer = await context.newPage();
  await peer.goto(`${url}/assets/mark.svg`);
  await peer.evaluate(install);
  await context.route("**/v1/live/sessions", async (route) => {
    const { transport } = route.request().postDataJSON();
    const sdp = await peer.evaluate((offer) => window.answer(offer), transport.sdp);
    await route.fulfill({ json: { session: { id: "sess_rtc" }, transport: { type: "webrtc", sdp } } });
  });
  await context.route("**/v1/live/sessions/*/ice", async (route) => {
    await peer.evaluate((body) => window.candidate(body), route.request().postDataJSON());
    await route.fulfill({ json: {} });
  });
  return {
    ready: () => peer.waitForFunction(() => window.channel?.readyState === "open", undefined, { polling: 50 }),
    says: (event) => peer.evaluate((value) => window.channel.send(JSON.stringify(value)), event),
    tone: (on) => peer.evaluate((value) => window.tone(value), on),
    heard: () => peer.evaluate(() => window.heard()),
    received: () => peer.evaluate(() => window.received),
    drop: () => peer.evaluate(() => window.peer.close()),
  };
}

/** Runs in the second page. */
function install() {
  window.received = [];
  window.answer = async (offer) => {
    const peer = new RTCPeerConnection();
    const audio = new AudioContext();
    const tone = audio.createOscillator();
    const gain = audio.createGain();
    const out = audio.createMediaStreamDestination();
    const analyser = audio.createAnalyser();
    gain.gain.value = 0;
    tone.connect(gain).connect(out);
    tone.start();
    Object.assign(window, { peer });
    window.tone = (on) => (gain.gain.value = on ? 0.4 : 0);
    window.heard = () => {
      const samples = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(samples);
      return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    };
    peer.ontrack = ({ streams: [stream] }) => {
      const element = new Audio();
      element.muted = true;
      element.srcObject = stream;
      void element.play();
      audio.createMediaStreamSource(stream).connect(analyser);
    };
    peer.ondatachannel = ({ channel }) => {
      window.channel = channel;
      channel.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        window.received.push(event);
        if (event.type === "duologue.ping") channel.send(JSON.stringify({ ...event, type: "duologue.pong" }));
      };
    };
    await peer.setRemoteDescription({ type: "offer", sdp: offer });
    peer.addTrack(out.stream.getAudioTracks()[0], out.stream);
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 10));
    return peer.localDescription.sdp;
  };
  window.candidate = ({ candidate, sdp_mid, sdp_m_line_index }) =>
    window.peer.addIceCandidate({ candidate, sdpMid: sdp_mid ?? null, sdpMLineIndex: sdp_m_line_index ?? null });
}
